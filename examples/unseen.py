"""A scene that was not fitted: its latent from a few photographs, with the networks frozen.

python examples/unseen.py
"""

from pathlib import Path

import hyperfields as hf
from hyperfields.scenes import SAMPLES


def main(minutes: float = 1.0, out: Path = Path("out")) -> hf.InferredCodes:
    out.mkdir(exist_ok=True)
    everything = hf.open_family(SAMPLES / "cars_views", size=(64, 64))
    known, unseen = everything.names[1:], everything.names[0]
    run = hf.fit(hf.open_family(SAMPLES / "cars_views", size=(64, 64), scenes=known), minutes=minutes)

    # Four of its photographs; `refine` also fits low-rank changes of its weights, which a code alone cannot reach.
    few = hf.open_family(SAMPLES / "cars_views", size=(64, 64), scenes=[unseen], views=[0, 10, 20, 30])
    inferred = hf.infer(run, few, minutes=minutes / 4, refine=True)
    scene = inferred[unseen]

    report = hf.evaluate(run, few, scenes=[scene])  # against test views
    print(hf.format_report(report))
    hf.write_image(out / "unseen.png", scene.render(size=(256, 256)))
    print(f"wrote {out / 'unseen.png'}")
    return inferred


if __name__ == "__main__":
    main()
