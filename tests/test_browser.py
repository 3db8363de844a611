"""The explorers in JupyterLab, in a real browser: the map is clicked, sliders are moved, and a picture of the page is kept in build/browser.

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
CELLS = [
    "from epuredgm.explore.interpolation import WalkPanel\nfrom epuredgm.explore.latent_map import MapPanel\nfrom epuredgm.explore.latent_space import wheel_space\nspace = wheel_space()",
    'MapPanel(space, "radius")',
    "WalkPanel(space, (3, 8), steps=9)",
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


def write_notebook(path):
    "A notebook of code cells, without outputs."
    cells = [{"cell_type": "code", "id": f"cell{k}", "metadata": {}, "source": source, "outputs": [], "execution_count": None} for k, source in enumerate(CELLS)]
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


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    "The notebook in JupyterLab, all of its cells run."
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("browser")
    (folder / "notebooks").mkdir()
    write_notebook(folder / "notebooks" / "walk.ipynb")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with jupyterlab(folder) as address, sync_playwright() as playwright:
        # a container has neither a sandbox for Chromium nor much shared memory
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1500, "height": 1750})
        page.set_default_timeout(120_000)
        page.goto(f"{address}/lab/tree/walk.ipynb?token={TOKEN}")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
        page.evaluate("() => { window.jupyterapp.shell.collapseLeft(); return window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        try:
            page.wait_for_selector(".jupyter-matplotlib canvas")
            page.wait_for_selector("text=of the way from design 3")
            yield page
        finally:
            page.screenshot(path=PICTURES / "walk.png")
            browser.close()


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
