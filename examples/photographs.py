"""Photographs in, a turning scene out: find the cameras, look at what was found, fit, and film an orbit.

python examples/photographs.py [FOLDER or VIDEO]         (default: the toys that come with hyperfields)
"""

import sys
from pathlib import Path

import hyperfields as hf
from hyperfields.scenes import SAMPLES
from hyperfields.scenes.poses import find_poses, text_of


def main(
    photos: Path = SAMPLES / "toy_cars",
    minutes: float = 5.0,
    out: Path = Path("out"),
    size: tuple[int, int] = (240, 180),  # of the film
) -> None:
    found = find_poses(photos, out / "capture")  # transforms.json, upright pictures, points, cameras.html
    print(text_of(found))
    if found.wrong:
        raise SystemExit(found.wrong)

    data = hf.open_family(out / "capture")  # every eighth photograph is held out
    run = hf.fit(data, minutes=minutes)
    print(hf.format_report(hf.evaluate(run, data)))

    scene = run[run.names[0]]
    cameras = hf.orbit_cameras(run, frames=36, size=size)
    hf.write_animation(out / "turn.gif", (scene.render(camera) for camera in cameras), fps=12)
    print(f"wrote {out / 'turn.gif'}; look at {out / 'capture' / 'cameras.html'} as well")


if __name__ == "__main__":
    main(Path(sys.argv[1])) if sys.argv[1:] else main()
