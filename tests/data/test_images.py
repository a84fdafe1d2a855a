"""Every kind of image file becomes the right RGB, or a sentence with its name."""

import numpy as np
import pytest
from PIL import Image

from fgvc_lib.data.images import BadImage, read_image, square


def pixel(path):
    return read_image(path).getpixel((0, 0))


@pytest.mark.parametrize(
    ("mode", "color", "ending", "expected"),
    [
        ("L", 100, "png", (100, 100, 100)),
        ("LA", (100, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 0), "png", (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), "png", (10, 20, 30)),
        ("CMYK", (255, 0, 0, 0), "tiff", (0, 255, 255)),
        ("1", 1, "png", (255, 255, 255)),
        ("I;16", 65535, "png", (255, 255, 255)),
        ("I;16", 32896, "png", (128, 128, 128)),  # 128 · 257
        ("I", 0, "tiff", (0, 0, 0)),
    ],
)
def test_modes(tmp_path, mode, color, ending, expected):
    path = tmp_path / f"image.{ending}"
    Image.new(mode, (4, 3), color).save(path)
    assert read_image(path).size == (4, 3)
    assert pixel(path) == expected


def test_cmyk_jpeg(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)
    red, green, blue = pixel(path)
    assert red > 240
    assert max(green, blue) < 15


def test_palette_with_a_transparent_color(tmp_path):
    path = tmp_path / "a.png"
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(path, transparency=0)
    assert read_image(path).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(path).getpixel((1, 0)) == (0, 0, 255)


def test_exif_orientation_is_applied_unless_coordinates_forbid_it(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    assert read_image(path).size == (4, 8)
    assert read_image(path, upright=False).size == (8, 4)


def test_first_frame_of_an_animation(tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert pixel(path) == (255, 0, 0)


def broken(tmp_path, kind):
    path = tmp_path / f"{kind}.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "text":
        path.write_text("this is no image")
    elif kind == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "the file is empty"),
        ("truncated", "truncated"),
        ("text", "cannot identify"),
        ("missing", "No such file"),
    ],
)
def test_bad_files_are_named(tmp_path, kind, reason):
    path = broken(tmp_path, kind)
    with pytest.raises(BadImage, match=f"{path.name}.*{reason}"):
        read_image(path)


def test_decompression_bomb_is_refused_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (4000, 4000)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadImage, match=r"bomb.png.*decompression bomb"):
        read_image(path)


def test_float_image_is_refused(tmp_path):
    path = tmp_path / "a.tiff"
    Image.new("F", (2, 2), 0.5).save(path)
    with pytest.raises(BadImage, match="floating-point"):
        read_image(path)


def test_square():
    assert square(Image.new("RGB", (30, 10)), 7).size == (7, 7)
