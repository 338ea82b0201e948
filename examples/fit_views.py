"""Fit radiance fields to photographs with their cameras, and render novel views of a car that nobody built.

python examples/fit_views.py [FOLDER]         (default: the cars that come with hyperfields)
"""

import sys
from pathlib import Path

import hyperfields as hf
from hyperfields.scenes import SAMPLES


def main(folder: Path = SAMPLES / "cars_views", minutes: float = 1.0, out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    data = hf.open_family(folder, size=(64, 64))
    run = hf.fit(data, minutes=minutes)
    first, second = run.names[:2]
    halfway = run.between(first, second, 0.5)

    cameras = hf.orbit_cameras(run, frames=24, size=(128, 128))
    hf.write_animation(out / "turn.gif", (halfway.render(camera) for camera in cameras))
    hf.write_image(out / "depth.png", halfway.render(cameras[0], channel="depth"))
    halfway.mesh(resolution=64)  # vertices and faces; `halfway.save("car.glb")` writes them
    halfway.save(out / "car.safetensors")  # the field alone: hf.load_field reads it
    print(f"wrote {out / 'turn.gif'}, {out / 'depth.png'} and {out / 'car.safetensors'}")


if __name__ == "__main__":
    main(Path(sys.argv[1])) if sys.argv[1:] else main()
