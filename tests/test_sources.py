"""What code depends on, and what it does not."""

import pytest

from fgvc_lib import sources

LIBRARY = {
    "__init__.py": '"""The library."""\n__version__ = "1"\n',
    "config.py": 'class Config:\n    """Settings."""\n    method: str = "baseline"\n',
    "losses/__init__.py": "from fgvc_lib.losses.center import center_loss\nfrom .mutual import mutual_loss\n",
    "losses/center.py": "import torch\n\ndef center_loss(x):\n    return x * 0.5\n",
    "losses/mutual.py": "def mutual_loss(x):\n    return x\n",
    "methods/__init__.py": (
        "from fgvc_lib.methods.base import Method\nfrom fgvc_lib.methods.baseline import Baseline\n"
        "from fgvc_lib.methods.center import Center\nfrom fgvc_lib.methods.mutual import Mutual\n"
        'METHODS: dict[str, type[Method]] = {"baseline": Baseline, "center": Center, "mutual": Mutual}\n'
        "def pick(name):\n    return METHODS[name]\n"
        '__all__ = ["METHODS", "Baseline", "Center", "Method", "Mutual"]\n'
    ),
    "methods/base.py": "class Method: ...\n",
    "methods/baseline.py": "from fgvc_lib.methods.base import Method\nclass Baseline(Method): ...\n",
    "methods/center.py": (
        "from fgvc_lib.losses.center import center_loss\nfrom fgvc_lib.methods.base import Method\n"
        "class Center(Method): ...\n"
    ),
    "methods/mutual.py": "from ..losses.mutual import mutual_loss\nclass Mutual: ...\n",
    "train.py": (
        "from typing import TYPE_CHECKING\nfrom fgvc_lib.config import Config\nfrom fgvc_lib.methods import METHODS\n"
        "if TYPE_CHECKING:\n    from fgvc_lib.plots import draw\n"
        "def fit(config):\n    return METHODS[config.method]\n"
    ),
    "plots.py": 'import matplotlib\ndef draw(ax):\n    ax.text(0, 0, "x", ha="center")\n',
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    for name, text in LIBRARY.items():
        path = tmp_path / "fgvc_lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    forget()
    yield tmp_path
    forget()


def forget():
    sources._module.cache_clear()


def reached(code, words=()):
    return {name.removeprefix("fgvc_lib.") for name in sources.Reach(code, set(words)).modules}


@pytest.mark.usefixtures("root")
class TestReach:
    def test_a_name_that_a_package_hands_on_reaches_its_own_file_only(self):
        assert reached("from fgvc_lib.losses import center_loss") == {"losses.center"}
        assert reached("from fgvc_lib.losses import mutual_loss") == {"losses.mutual"}

    def test_a_package_as_a_whole_reaches_everything_in_it(self):
        everything = {"losses", "losses.center", "losses.mutual"}
        assert reached("import fgvc_lib.losses as losses") == everything
        assert reached("from fgvc_lib import losses") == everything
        assert reached("from fgvc_lib.losses import *") == everything

    def test_imports_are_followed_through_modules_and_inside_functions(self):
        assert reached("def f():\n    from fgvc_lib.methods.center import Center") == {
            "methods.center",
            "methods.base",
            "losses.center",
        }

    def test_a_method_of_the_table_is_reached_by_its_key(self):
        common = {"train", "config", "methods", "methods.base", "methods.baseline"}
        assert reached("from fgvc_lib.train import fit") == common
        assert reached('from fgvc_lib.train import fit\nfit("center")') == common | {"methods.center", "losses.center"}
        assert reached("from fgvc_lib import train", ["mutual"]) == common | {"methods.mutual", "losses.mutual"}

    def test_an_alignment_is_not_a_method(self):
        code = 'from fgvc_lib.train import fit\nfrom fgvc_lib.plots import draw\nax.text(va="center")'
        assert "methods.center" not in reached(code)

    def test_a_chapter_that_takes_the_table_itself_reaches_all_of_it(self):
        found = reached("from fgvc_lib.methods import METHODS")
        assert {"methods.center", "methods.mutual", "methods.baseline", "losses.mutual"} <= found

    def test_one_name_out_of_a_package_leaves_its_table_alone(self):
        assert reached("from fgvc_lib.methods import pick") == {"methods", "methods.base"}

    def test_imports_for_the_type_checker_are_not_followed(self):
        assert "plots" not in reached("from fgvc_lib.train import fit")

    def test_a_module_named_in_a_string_is_followed(self):
        assert reached('load("fgvc_lib.losses.center")') == {"losses.center"}

    def test_packages_are_those_imported_anywhere_on_the_way(self):
        assert sources.Reach("import numpy.linalg\nfrom fgvc_lib.losses import center_loss", set()).packages == {
            "numpy",
            "torch",
        }


@pytest.mark.parametrize(
    "same",
    [
        "x = 1  # a comment\n\n\nshow(x)",
        '"""A docstring."""\nx = 1\nshow(x)',
        'x = 1\nshow(x, caption="A caption.", alt="A picture.")',
        "x = (\n    1\n)\nshow(x)",
    ],
)
def test_prose_and_layout_change_no_digest(same):
    assert sources.code_digest(same) == sources.code_digest("x = 1\nshow(x)")


@pytest.mark.parametrize(
    "other", ["x = 2\nshow(x)", "x = 1\nshow(x, name='a')", "x = 1\nshow(x, caption=f'{x}')", "%time x = 1\nshow(x)"]
)
def test_code_changes_the_digest(other):
    assert sources.code_digest(other) != sources.code_digest("x = 1\nshow(x)")
