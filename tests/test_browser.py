"""The explorers in JupyterLab, and pages of the site, in a real browser; pictures of both are kept in build/browser.

A machine without Chromium, Playwright or ipympl leaves this test out and says why; `make browser` installs what is missing first.
"""
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT, clean_environment

PICTURES = ROOT / "build" / "browser"
TOKEN = "walk"
WALK = [
    "from epuredgm.explore.interpolation import WalkPanel\nfrom epuredgm.explore.latent_map import MapPanel\nfrom epuredgm.explore.latent_space import wheel_space\nspace = wheel_space()",
    'MapPanel(space, "radius")',
    "WalkPanel(space, (3, 8), steps=9)",
]
# What is trained for seconds draws hardly anything, but every widget has to take it.
TRAINED = [
    """from epuredgm.core.config import load_config
from epuredgm.explore.latent_map import MapPanel
from epuredgm.explore.latent_space import latent_space
from epuredgm.explore.responses import TraversalPanel
from epuredgm.explore.targets import TargetPanel
from epuredgm.train.run import train
def space_of(name):
    config = load_config(f"{CONFIGS}/{name}_toy_test.yaml", ["data.n=128", f"run_dir={name}"])
    return latent_space(train(config, progress=False), "val")
beta, gmrf = space_of("vae"), space_of("gmrf_mvae")""",
    "MapPanel(beta)",
    "MapPanel(gmrf)",
    "TraversalPanel(gmrf, most=3)",
    "TargetPanel(beta, asked={NAME: float(beta.attributes[NAME].median())})",
]


def chromium():
    "A Chromium of this machine, or None."
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next(filter(None, map(shutil.which, names)), None)


def missing():
    "What this test lacks, as a reason to leave it out; empty where everything is there."
    lacking = [name for name in ("playwright", "ipympl", "jupyterlab") if importlib.util.find_spec(name) is None]
    return ", ".join(lacking + (["chromium"] if chromium() is None else []))


pytestmark = pytest.mark.skipif(bool(missing()), reason=f"{missing()} not installed: `make browser` installs it")


def write_notebook(path, sources):
    "A notebook of code cells, without outputs."
    cells = [{"cell_type": "code", "id": f"cell{k}", "metadata": {}, "source": source, "outputs": [], "execution_count": None} for k, source in enumerate(sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


@contextlib.contextmanager
def jupyterlab(folder):
    "A JupyterLab of its own, without news, with every cell of a notebook in the page; gives its address."
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    (folder / "config" / "labconfig").mkdir(parents=True)
    (folder / "config" / "labconfig" / "page_config.json").write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    options = {"ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "IdentityProvider.token": TOKEN, "ServerApp.root_dir": folder / "notebooks", "ServerApp.allow_root": True}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser", *(f"--{name}={value}" for name, value in options.items())]
    places = {"JUPYTER_CONFIG_DIR": folder / "config", "JUPYTERLAB_SETTINGS_DIR": folder / "settings", "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces", "JUPYTER_RUNTIME_DIR": folder / "runtime"}
    with open(folder / "jupyterlab.log", "w") as log:
        server = subprocess.Popen(command, cwd=folder, env=clean_environment(**places), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(server, f"http://127.0.0.1:{port}/api/status?token={TOKEN}", folder / "jupyterlab.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def wait_for(server, address, log, seconds=90):
    "Until the server answers."
    for _ in range(seconds * 4):
        assert server.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.25)
    raise AssertionError(f"JupyterLab did not answer within {seconds} seconds:\n{log.read_text()[-3000:]}")


@contextlib.contextmanager
def run_in_jupyterlab(playwright, folder, name, sources, last):
    "A page with a notebook of these cells, all of them run, when it shows the selector `last`."
    (folder / "notebooks").mkdir()
    write_notebook(folder / "notebooks" / f"{name}.ipynb", sources)
    PICTURES.mkdir(parents=True, exist_ok=True)
    with jupyterlab(folder) as address:
        # a container has neither a sandbox for Chromium nor much shared memory
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1500, "height": 1750})
        page.set_default_timeout(120_000)
        page.goto(f"{address}/lab/tree/{name}.ipynb?token={TOKEN}")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
        page.evaluate("() => { window.jupyterapp.shell.collapseLeft(); return window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        try:
            page.wait_for_selector(".jupyter-matplotlib canvas")
            page.wait_for_selector(last)
            yield page
        finally:
            page.screenshot(path=PICTURES / f"{name}.png")
            browser.close()


@pytest.fixture(scope="module")
def playwright():
    "One for all tests: it takes no second one beside it."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def page(playwright, tmp_path_factory):
    "Explorers of the wheels, whose latents are known."
    with run_in_jupyterlab(playwright, tmp_path_factory.mktemp("browser"), "walk", WALK, "text=of the way from design 3") as page:
        yield page


def words(page, beginning):
    "The text of the widget that begins so."
    return page.locator(".widget-html-content", has_text=re.compile(f"^{beginning}")).inner_text()


def pictures(page):
    "What the images of the page hold."
    return page.evaluate("() => Promise.all([...document.querySelectorAll('.jp-OutputArea img.widget-image')].map(async image => (await (await fetch(image.src)).blob()).size + image.src))")


def press(page, slider, key, times):
    "Moves a slider by the keyboard, as a user may."
    handle = page.locator(".widget-hslider", has_text=slider).locator(".noUi-handle")
    for _ in range(times):
        handle.press(key)


def test_a_click_on_the_map_decodes_that_place(page):
    before = pictures(page)
    assert "design 0" in words(page, "design")
    box = page.locator(".jupyter-matplotlib canvas").last.bounding_box()
    page.mouse.click(box["x"] + 0.55 * box["width"], box["y"] + 0.35 * box["height"])
    page.wait_for_selector("text=/^place -?[0-9.]+, -?[0-9.]+/")
    said = words(page, "place")
    assert "log-density under the prior" in said and "nearest design" in said
    assert pictures(page)[0] != before[0]
    page.screenshot(path=PICTURES / "map.png")


def test_a_slider_walks_from_design_to_design(page):
    before = pictures(page)
    press(page, "step", "ArrowRight", 4)
    page.wait_for_selector("text=50% of the way from design 3")
    assert "radius (px)" in words(page, "50%") and pictures(page)[1] != before[1]


def test_a_slider_of_the_map_goes_to_a_design(page):
    press(page, "design", "ArrowRight", 3)
    page.wait_for_function("() => [...document.querySelectorAll('.widget-html-content')].some(words => /^design [0-9]+\\n/.test(words.innerText))")
    assert ", 0.00 prior standard deviations away" in words(page, r"design [0-9]+\s*log")
    page.get_by_role("button", name="spherical").click()
    page.wait_for_selector(".widget-toggle-button.mod-active >> text=spherical")
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0


def test_explorers_take_trained_runs(playwright, tmp_path):
    sources = [source.replace("{CONFIGS}", str(ROOT / "configs")).replace("NAME", repr("section_width")) for source in TRAINED]
    with run_in_jupyterlab(playwright, tmp_path, "trained", sources, "button:has-text('go')") as page:
        page.wait_for_selector("text=asked")
        canvases = page.locator(".jupyter-matplotlib canvas")
        shown, count = pictures(page), page.locator(".jupyter-matplotlib").count()
        assert count == 2 and len(shown) == 4, "a picture for each map, for the traversal and for the target"
        for k in range(count):
            box = canvases.nth(k * canvases.count() // count + canvases.count() // count - 1).bounding_box()
            page.mouse.click(box["x"] + 0.55 * box["width"], box["y"] + 0.35 * box["height"])
            page.wait_for_function("k => document.querySelectorAll('.widget-html-content').length > k && [...document.querySelectorAll('.widget-html-content')].filter(words => /^place/.test(words.innerText)).length === k + 1", arg=k)
        page.locator(".jp-OutputArea-output", has_text="back").locator(".noUi-handle").nth(1).press("PageUp")
        page.wait_for_function("before => [...document.querySelectorAll('.jp-OutputArea img.widget-image')][2].src !== before", arg=page.locator(".jp-OutputArea img.widget-image").nth(2).get_attribute("src"))
        assert all(before != after for before, after in zip(shown[:3], pictures(page)))
        assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0


SITE = ROOT / "_docs"
PAGES = ["index.html", "guides/first_run.html", "models/beta_vae.html", "reference/configuration.html", "train/run.html"]


@pytest.mark.skipif(not SITE.is_dir(), reason="the site is not built: `make docs` builds it")
@pytest.mark.parametrize("name", PAGES)
def test_a_built_page_shows_all_of_itself_on_a_phone(playwright, name):
    path = SITE / name if (SITE / name).exists() else next(SITE.glob(name.replace("/", "/*")))
    PICTURES.mkdir(parents=True, exist_ok=True)
    browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
    try:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())  # formulas come from elsewhere
        page.goto(path.as_uri(), wait_until="load")
        page.screenshot(path=PICTURES / f"page-{path.stem}.png")
        assert page.locator("h1").first.inner_text().strip()
        assert page.locator("img").evaluate_all("all => all.filter(one => one.loading !== 'lazy' && !one.naturalWidth).map(one => one.src)") == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390 + 1, "wider than a phone"
    finally: browser.close()
