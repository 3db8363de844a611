"""Packaging: everything it needs stands in settings.ini, the one place that nbdev reads too. The configurations go into the package."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
extras = {name: settings[f"{name}_requirements"].split() for name in ("dev", "wandb", "tensorboard", "explore", "export")}


class BuildWithConfigurations(build_py):
    "Copies configs/ into the package of a wheel; an editable install reads them where they are."

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "epuredgm", "configs")
        self.mkpath(str(target))
        for path in sorted(here.joinpath("configs").iterdir()):
            self.copy_file(str(path), str(target / path.name))


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    keywords=settings["keywords"],
    author=settings["author"],
    author_email=settings["author_email"],
    license="Apache-2.0",
    url=settings["git_url"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["epuredgm*"]),
    cmdclass={"build_py": BuildWithConfigurations},
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": settings["console_scripts"].split(),
        "nbdev": [f"{settings['lib_name']}={settings['lib_name']}._modidx:d"],
    },
    zip_safe=False,
)
