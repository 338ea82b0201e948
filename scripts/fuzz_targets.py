"""The targets of the fuzzer: for each format that is read, valid files to start from and the call that reads one.

A reader may do two things with a file: read it, or raise an `InputError` of one line that names it. To add a format,
write a function that reads bytes of it, one that makes valid ones, and a line in `TARGETS`. `make fuzz` runs all of
them, `tests/test_fuzz_corpus.py` the files that were kept in tests/corpus/.
"""

from __future__ import annotations

from fuzz_captures import (
    capture,
    colmap_binary,
    colmap_text,
    llff,
    photograph,
    photograph_files,
    points,
    polycam,
    seeds,
    srn,
    video,
    videos,
)
from fuzz_room import Target
from fuzz_runs import (
    COMPARISON,
    camera_path,
    camera_paths,
    codes,
    codes_files,
    comparison,
    composed,
    compositions,
    configs,
    field_files,
    fields,
    in_run,
    message_files,
    messages,
    of_run,
    result_files,
    results,
    source_files,
    sources,
    state_files,
    states,
    tcnn,
    tcnn_files,
    tcnn_json,
)
from fuzz_scenes import (
    TRANSFORMS_WORDS,
    exrs,
    glbs,
    mesh,
    objs,
    offs,
    picture,
    pictures,
    plys,
    pool,
    pools,
    stls,
    transforms,
    transforms_files,
)

from hyperfields.runs.config import CONFIG
from hyperfields.runs.run import METRICS, MODEL, SUMMARY

COLMAP_WORDS = ("SIMPLE_RADIAL", "OPENCV_FISHEYE", "EQUIRECTANGULAR", "FOV", "1e999", "nan", "-1", "a.png", "../a.png")
PLY_WORDS = ("element vertex ", "element face ", "property list uchar int vertex_indices", "ascii 1.0", "tristrips")
COMPOSITION_WORDS = ("run", "scene", "codes", "position", "turn", "rotation", "scale", "../a", "1e999")
TARGETS: dict[str, Target] = {
    "png": Target(picture(".png"), pictures("PNG", "RGBA", "P", "1", "I;16")),
    "jpeg": Target(picture(".jpg"), pictures("JPEG", "RGB", "L", "CMYK")),
    "webp": Target(picture(".webp"), pictures("WEBP", "RGBA", "RGB")),
    "exr": Target(picture(".exr"), exrs),
    "bmp": Target(picture(".bmp"), pictures("BMP", "RGB", "P")),
    "tiff": Target(picture(".tif"), pictures("TIFF", "RGBA", "L", compression="tiff_lzw")),
    "gif": Target(picture(".gif"), pictures("GIF", "P")),
    "tga": Target(picture(".tga"), pictures("TGA", "RGBA", "L", compression="tga_rle")),
    "ppm": Target(picture(".ppm"), pictures("PPM", "RGB", "L", "1")),
    "ply": Target(mesh(".ply"), plys, words=PLY_WORDS),
    "obj": Target(mesh(".obj"), objs, words=("f 1//1 2//1 3//1", "v 0 0 0", "usemtl a", "o a", "g a", "f -1 -2 -3")),
    "off": Target(mesh(".off"), offs, words=("OFF", "COFF", "4OFF", "NOFF BINARY", "#")),
    "stl": Target(mesh(".stl"), stls, words=("solid", "facet normal 0 0 1", "outer loop", "endsolid", "vertex 0 0 0")),
    "glb": Target(mesh(".glb"), glbs, "glb"),
    "pool": Target(pool, pools),
    "transforms_train": Target(transforms("transforms_train.json"), transforms_files, "json", TRANSFORMS_WORDS),
    "transforms": Target(transforms("transforms.json"), transforms_files, "json", TRANSFORMS_WORDS),
    "colmap_text": Target(capture("colmap_text", colmap_text), seeds(colmap_text), words=COLMAP_WORDS),
    "colmap_binary": Target(capture("colmap_binary", colmap_binary), seeds(colmap_binary)),
    "points": Target(capture("points", points), lambda room: seeds(points)(room)[::-1], words=PLY_WORDS),
    "llff": Target(capture("llff", llff), seeds(llff)),
    "srn": Target(capture("srn", srn), seeds(srn)),
    "polycam": Target(capture("polycam", polycam), seeds(polycam)),
    "photograph": Target(photograph, photograph_files),
    "video": Target(video, videos),
    "run_config": Target(in_run(CONFIG), configs, "json"),
    "run_model": Target(in_run(MODEL), of_run(MODEL), "safetensors"),
    "run_summary": Target(in_run(SUMMARY), of_run(SUMMARY), "json"),
    "run_log": Target(in_run(METRICS), lambda room: [b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n'], "lines"),
    "run_state": Target(states, state_files, "safetensors"),
    "run_source": Target(sources, source_files, "safetensors"),
    "field": Target(fields, field_files, "safetensors"),
    "codes": Target(codes, codes_files, "safetensors"),
    "tcnn": Target(tcnn, lambda room: tcnn_files(room)[:1], "safetensors"),
    "tcnn_json": Target(tcnn_json, lambda room: tcnn_files(room)[1:], "json"),
    "compare": Target(comparison, lambda room: [COMPARISON], "json"),
    "compare_results": Target(results, result_files, "lines"),
    "composition": Target(composed, compositions, "json", COMPOSITION_WORDS),
    "camera_path": Target(camera_path, camera_paths, "json", named=False),
    "message": Target(messages, message_files, "json", named=False),
}
