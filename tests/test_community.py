"""Files that say how to cite, report and contribute agree with the package."""
import yaml
from conftest import ROOT

import epuredgm


def test_citation_names_the_version_and_the_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == epuredgm.__version__ and citation["license"] == "Apache-2.0" and citation["authors"] and citation["title"] == "epuredgm"


def test_changes_of_the_version_are_listed():
    assert f"## {epuredgm.__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_forms_of_issues_are_forms():
    forms = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
    assert forms and all({"name", "description", "body"} <= set(yaml.safe_load(path.read_text(encoding="utf-8"))) for path in forms)
