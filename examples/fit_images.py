"""Fit a folder of pictures with one hypernetwork, measure it, and walk from one picture to another.

python examples/fit_images.py [FOLDER]        (default: the emoji that come with hyperfields)
"""

import sys
from pathlib import Path

import hyperfields as hf
from hyperfields.scenes import SAMPLES


def main(folder: Path = SAMPLES / "emoji", minutes: float = 0.5, out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    data = hf.open_family(folder, size=(64, 64))
    run = hf.fit(data, minutes=minutes)
    print(hf.format_report(hf.evaluate(run, data)))

    first, second = run.names[:2]
    hf.write_image(out / "first.png", run[first].render(size=(256, 256)))  # any size: it is a function of points
    hf.write_animation(
        out / "walk.gif", (run.between(first, second, step / 23).render(size=(128, 128)) for step in range(24))
    )
    print(f"wrote {out / 'first.png'} and {out / 'walk.gif'}")


if __name__ == "__main__":
    main(Path(sys.argv[1])) if sys.argv[1:] else main()
