"""Every set of designs keeps the one protocol: those that each kind of data opens, and the table of latents that a regression head is trained on."""
import numpy as np
import pytest
import torch

from epuredgm.core.registry import datasets
from epuredgm.core.spec import DesignSpec
from epuredgm.data.designs import build_data, check_design_set
from epuredgm.data.folders import write_designs

KINDS = {"toy_epures": {"n": 6, "n_val": 4}, "polymnist": {"n": 6, "n_val": 4, "components": 2}, "digits": {"n": 9, "n_val": 4}, "wireframes": {"n": 12, "scale": 0.1}}


@pytest.fixture
def folder(tmp_path):
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 1, 8, 8), np.uint8))
    columns = {"width": np.arange(9.0), "load": np.arange(9.0) ** 2, "kind": [["a", "b", ""][k % 3] for k in range(9)], "train": [k % 2 for k in range(9)]}
    write_designs(x, tmp_path / "designs", spec=DesignSpec(("section",)), columns=columns)
    return tmp_path / "designs"


def splits_of(kind, folder):
    values = KINDS.get(kind, {})
    if kind == "folder":
        values = {"root_dir": str(folder), "component_dirs": ("section",), "condition_columns": ("width",), "attribute_columns": ("load",), "label_column": "kind",
                  "image_size": (8, 8), "cache_dir": str(folder.parent / "cache")}
    if kind == "attributes":
        values = {"root_dir": str(folder / "section"), "attributes_path": str(folder / "performances.csv"), "name_column": "matching", "filename_pattern": "{name}_section.png",
                  "attributes": ("load",), "image_size": (8, 8), "cache_dir": str(folder.parent / "cache")}
    config = datasets.get(kind).config(type=kind, **values)
    return config, build_data(config)


@pytest.mark.parametrize("kind", [name for name in datasets.names() if name != "run"])  # "run" opens what another run was trained on
def test_kinds_of_data(kind, folder):
    config, splits = splits_of(kind, folder)
    for designs in (splits.train, splits.val, splits.to("cpu").train):
        check_design_set(designs)
    assert splits.train.spec == splits.val.spec
    known, opened = config.spec(), splits.spec  # before anything is opened, and after
    for name in ("components", "channels", "height", "width", "conditions"):
        assert getattr(known, name) == getattr(opened, name)
    for name in ("attributes", "classes"):
        assert getattr(known, name) in ((), getattr(opened, name))


def test_latents():
    from epuredgm.train.latents import LatentTable

    latents = LatentTable(DesignSpec(("latents",), channels=3), np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype(np.float32), attributes=np.ones((5, 2)), attribute_names=("width", "load"))
    for designs in (latents, latents.to("cpu"), latents.to("cpu", 0)):
        check_design_set(designs)
    assert torch.equal(latents.batch(slice(None)).x, torch.from_numpy(latents.images))
