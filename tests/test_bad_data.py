"Inputs that people have: tables with repeated rows, accents kept in two ways, pictures that hide something, names that are code. Each gives the right value or a sentence with file, row and remedy."
import gzip
import json
import struct
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from epuredgm.core.errors import EpureError
from epuredgm.core.registry import datasets
from epuredgm.data.attributes import read_measures
from epuredgm.data.designs import build_data
from epuredgm.data.layout_trees import tree_of
from epuredgm.data.polymnist import read_backgrounds, read_idx
from epuredgm.data.render import render_folder
from epuredgm.data.tables import numbers_of, read_table
from epuredgm.data.wireframes import read_labels


def sentence(call, *words):
    "The sentence of a call that fails, which holds some words."
    with pytest.raises(EpureError) as caught: call()
    for word in words: assert word in str(caught.value), str(caught.value)
    return str(caught.value)


@pytest.fixture
def pictures(tmp_path):
    "Eight grey pictures, and a function that opens them with measures."
    (tmp_path / "p").mkdir()
    for i in range(8): Image.new("L", (8, 8), 20 * i).save(tmp_path / "p" / f"{i}.png")

    def opened(measures=None, name="m.csv", **options):
        if measures is not None: (tmp_path / name).write_text(measures, encoding="utf-8")
        given = {} if measures is None else {"attributes_path": str(tmp_path / name)}
        values = {"type": "attributes", "root_dir": str(tmp_path / "p"), "image_size": (8, 8), "cache_dir": str(tmp_path / "cache")} | given | options
        return build_data(datasets.get("attributes").config(**values))

    opened.folder = tmp_path
    return opened


def rows(*columns, header="filename,w"): return "\n".join([header, *(f"{i}.png," + ",".join(str(column(i)) for column in columns) for i in range(8))]) + "\n"


# ---- tables
def test_a_row_or_a_column_comes_once(pictures):
    twice = rows(lambda i: i) + "1.png,99\n"
    sentence(lambda: pictures(twice), "m.csv", "row 10", "'1.png'", "row 3", "keep one")
    sentence(lambda: pictures(rows(lambda i: i, lambda i: -i, header="filename,w,w")), "m.csv", "'w'", "2 times")
    (pictures.folder / "s.csv").write_text(rows(lambda i: i % 2, header="filename,train") + "0.png,1\n")
    sentence(lambda: pictures(split_path=str(pictures.folder / "s.csv")), "s.csv", "row 10", "row 2")
    (pictures.folder / "labels.csv").write_text("page,label\na,x\na,y\n")
    sentence(lambda: read_labels(pictures.folder / "labels.csv"), "row 3", "'y'", "'x'")


def test_the_name_is_no_measure(pictures):
    assert pictures(rows(lambda i: i)).train.attribute_names == ("w",)
    assert pictures(rows(lambda i: i, lambda i: "", header="filename,w,")).train.attribute_names == ("w",)  # a comma too many in every row


def test_a_pattern_holds_the_name(pictures):
    with pytest.raises(ValueError, match="name"): pictures(filename_pattern="a.png")


@pytest.mark.parametrize("name", ["s.txt", "S.CSV", "split"])
def test_a_split_is_read_from_the_file_that_is_named(pictures, name):
    (pictures.folder / "s.csv").write_text("filename,train\n")  # a neighbour
    (pictures.folder / name).write_text(rows(lambda i: int(i < 6), header="filename,train"))
    assert sorted(pictures(split_path=str(pictures.folder / name)).val.names) == ["6.png", "7.png"]


def test_a_missing_table_names_its_key(pictures):
    sentence(lambda: pictures(split_path=str(pictures.folder / "none.csv")), "none.csv", "data.split_path")
    sentence(lambda: pictures(split_path=str(pictures.folder)), str(pictures.folder), "can't be read")
    sentence(lambda: pictures(attributes_path=str(pictures.folder / "none.csv")), "none.csv", "data.attributes_path")
    sentence(lambda: read_labels(pictures.folder / "none.csv"), "none.csv", "data.labels")


@pytest.mark.parametrize("text, number", [("−5", -5), (" 5", 5), ("−1e-3", -1e-3), ("+7", 7)])
def test_numbers_as_people_write_them(tmp_path, text, number):
    (tmp_path / "t.csv").write_text(f"m,x\na,{text}\n", encoding="utf-8")
    assert numbers_of(read_table(tmp_path / "t.csv"), ["x"]).tolist() == [[number]]


@pytest.mark.parametrize("text, remedies", [("1,234", ["1234", "1.234"]), ("1,5", ["1.5"]), ("1.234,5", ["1234.5"]), ("1 234", ["1234"]), ("1 234,5", ["1234.5"]),
                                            ("–5", ["-5"]), ("0,123", ["0.123"]), ("wide", ["remove the row"]), ("1e999", ["float32"]), ("nan", ["finite"])])
def test_numbers_that_could_be_two_are_refused_with_what_may_be_meant(pictures, text, remedies):
    sentence(lambda: pictures(rows(lambda i: f'"{text}"' if i == 4 else i)), "4.png", "w is", *remedies)


def test_measures_in_json(pictures):
    whole = {f"{i}.png": {"w": i} for i in range(8)}
    for bad in (10**400, True, None, [1], "1,5"): sentence(lambda: pictures(json.dumps(whole | {"3.png": {"w": bad}}), "m.json"), "m.json", "3.png", "w is")
    deep = "[" * 100_000 + "]" * 100_000
    (pictures.folder / "deep.json").write_text(f'{{"0.png": {{"w": {deep}}}}}')
    sentence(lambda: read_measures(pictures.folder / "deep.json"), "deep.json", "nested")


def test_formulas_are_told(tmp_path):
    (tmp_path / "t.csv").write_text('m,x\n"=1+1",-5\n@b,+3\nc,−2\n')
    with pytest.warns(UserWarning, match="row 2.*=1\\+1.*1 more.*formula"): read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("m,x\n-5,-\n+1e3,+\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_table(tmp_path / "t.csv")


# ---- names
@pytest.mark.parametrize("here, there", [("NFC", "NFD"), ("NFD", "NFC")])
def test_either_accent_finds_the_other(pictures, here, there):
    def spelled(form): return unicodedata.normalize(form, "é.png")
    (pictures.folder / "p" / "7.png").rename(pictures.folder / "p" / spelled(there))
    text = rows(lambda i: i).replace("7.png", spelled(here))
    assert set(pictures(text).train.attributes[:, 0].tolist() + pictures(text).val.attributes[:, 0].tolist()) == set(range(8))
    (pictures.folder / "s.csv").write_text(rows(lambda i: int(i < 7), header="filename,train").replace("7.png", spelled(here)))
    assert len(pictures(split_path=str(pictures.folder / "s.csv")).val) == 1


def test_endings_in_capitals(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(3): Image.new("L", (4, 4), 100).save(tmp_path / "a" / f"{i}_a.PNG")
    (tmp_path / "performances.csv").write_text("matching,train\n0,1\n1,1\n2,0\n")
    config = datasets.get("folder").config
    for pattern in ("{prefix}_{component}.png", "{prefix}_{component}.PNG"):
        data = config(type="folder", root_dir=str(tmp_path), component_dirs=("a",), filename_pattern=pattern, image_size=(4, 4), cache_dir=str(tmp_path / "cache"))
        assert len(build_data(data).train) == 2


# ---- pictures
HIDING = {"transparent": lambda: Image.new("RGBA", (8, 8), (200, 200, 200, 0)), "deep": lambda: Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000),
          "grey and alpha": lambda: Image.new("LA", (8, 8), (200, 0))}


@pytest.mark.parametrize("kind", HIDING)
def test_what_a_picture_hides_is_not_trained_on(pictures, tmp_path, kind):
    HIDING[kind]().save(pictures.folder / "p" / "3.png")
    for channels in (1, 3): sentence(lambda: pictures(channels=channels), "3.png")
    (tmp_path / "backgrounds").mkdir()
    HIDING[kind]().resize((40, 40)).save(tmp_path / "backgrounds" / "b.png")
    sentence(lambda: read_backgrounds(tmp_path / "backgrounds"), "b.png")


def test_a_transparent_colour_is_seen(pictures):
    Image.new("RGB", (8, 8), (9, 9, 9)).save(pictures.folder / "p" / "3.png", transparency=(9, 9, 9))
    sentence(lambda: pictures(channels=3), "3.png", "transparent")


@pytest.mark.parametrize("ending, options", [("png", {"save_all": True}), ("tif", {"save_all": True})])
def test_one_picture_a_file(pictures, ending, options):
    frames = [Image.new("L", (8, 8), grey) for grey in (10, 90)]
    frames[0].save(pictures.folder / "p" / f"3.{ending}", append_images=frames[1:], **options)
    for channels in (1, 3): sentence(lambda: pictures(channels=channels), f"3.{ending}", "2 pictures")


def test_no_pixel_is_no_number(pictures):
    values = np.ones((8, 8), np.float32)
    values[2, 2] = np.nan
    Image.fromarray(values).save(pictures.folder / "p" / "3.tif")
    sentence(lambda: pictures(local_normalization=True), "3.tif", "finite")


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_pictures_stand_upright(pictures, ending):
    values = np.zeros((8, 8), np.uint8)
    values[:4] = 255  # the upper half is white once it is turned by what EXIF says
    exif = Image.Exif()
    exif[0x0112] = 3  # stands on its head
    for path in (pictures.folder / "p").iterdir(): path.unlink()
    for i in range(4): Image.fromarray(values[::-1].copy()).save(pictures.folder / "p" / f"{i}.{ending}", exif=exif)
    x = pictures().train.batch([0]).x[0, 0]
    assert x[:3].min() > 0.9 and x[5:].max() < 0.1


def test_idx_files_are_known_by_their_content(tmp_path):
    content = struct.pack(">BBBBI", 0, 0, 8, 1, 3) + bytes([1, 2, 3])
    for name, data in (("a.GZ", gzip.compress(content)), ("a", gzip.compress(content)), ("b.gz", content)):
        (tmp_path / name).write_bytes(data)
        assert read_idx(tmp_path / name).tolist() == [1, 2, 3]
    (tmp_path / "c.gz").write_bytes(gzip.compress(content)[:-9])
    sentence(lambda: read_idx(tmp_path / "c.gz"), "c.gz", "damaged")


# ---- built-in data, pages
@pytest.mark.parametrize("size", [(32, 16), (64, 16), (40, 30)])
def test_toy_epures_of_small_pictures(size):
    values = datasets.get("toy_epures").config(type="toy_epures", n=40, n_val=8, image_size=size, conditions=("d_cons", "d_rigid", "d_life", "d_stab", "width_px"))
    cond = build_data(values).train.cond
    large = build_data(values.model_copy(update={"image_size": (64, 32)})).train.cond
    torch.testing.assert_close(cond, large, atol=1e-5, rtol=1e-5)  # the same designs, sizes in pixels of their own


def test_a_long_name_costs_one_page(tmp_path):
    page = {"r": {"b": [0, 0, 30, 40]}, "w": 40, "h": 60}
    (tmp_path / "trees").mkdir()
    for name in ("a", "b" * 245, "c"): (tmp_path / "trees" / f"{name}.json").write_text(json.dumps(page))
    report = render_folder(tmp_path / "trees", tmp_path / "out", progress=False)
    assert report.rendered == 2 and "longer" in report.skipped["b" * 245 + ".json"]
    assert not list((tmp_path / "out").glob(".*.tmp"))


def test_what_a_user_does_not_see_is_not_painted():
    page = {"bounds": [0, 0, 40, 60], "children": [{"bounds": [0, 0, 10, 10], "visible-to-user": False}, {"bounds": [5, 5, 9, 9], "visible-to-user": True}]}
    tree = tree_of(page)
    assert (len(tree), tree.left_out) == (2, {"visible-to-user: false": 1})


# ---- words
def test_names_are_no_html():
    import ipywidgets

    from conftest import ROOT
    from epuredgm.explore.latent_map import MapPanel
    from epuredgm.explore.latent_space import Panel, wheel_space

    panel, name = Panel(), "<b onmouseover=alert(1)>"
    panel.words = ipywidgets.HTML()
    panel.say(name, problems=[name], table=name)
    assert panel.words.value.count("&lt;b onmouseover") == 3 and name not in panel.words.value
    others = [path.name for path in (ROOT / "epuredgm" / "explore").glob("*.py") if "words.value" in path.read_text(encoding="utf-8") and path.name != "latent_space.py"]
    assert not others, "they write HTML beside Panel.say"
    space = wheel_space(12)
    space.designs.names = [f"{name}{i}" for i in range(12)]
    assert name not in MapPanel(space, clicks=False).words.value


def test_papermill_knows_every_parameter():
    "A line with two equals signs in the cell of parameters hides a parameter from papermill, which then warns that it is unknown."
    import re

    import papermill
    from conftest import ROOT, notebooks

    for path in [ROOT / "nbs" / path for path in notebooks() if path.parts[0] == "experiments"]:
        source = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])
        asked = re.search(r"check_parameters\(globals\(\), \[(.*?)\]", source, re.S)
        if asked: assert set(re.findall(r'"(\w+)"', asked[1])) <= set(papermill.inspect_notebook(str(path))), path
