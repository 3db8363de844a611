"""What a latent map costs: t-SNE of 2,000 designs, and a redraw after the mark was moved or another attribute chosen."""
import statistics

from epuredgm.explore.latent_map import MapPanel, latent_map
from epuredgm.explore.latent_space import wheel_space
from epuredgm.plot.figures import png
from timing import Result, at_most, seconds


def latent_maps(tiny: bool) -> list[Result]:
    "t-SNE as it is called, and a panel as its sliders call it: the mark moved, the place decoded, its words said, the picture made."
    space = wheel_space(60 if tiny else 2000)
    space.whitened, space.attributes, space.usual  # known before anybody looks at a map
    neighbours = seconds(lambda: latent_map(space, "tsne"))
    panel = MapPanel(space, "radius", clicks=False)
    places = [(0.1 * k, -0.1 * k) for k in range(3 if tiny else 20)]
    redraws = [seconds(lambda place=place: png_of_move(panel, *place)) for place in places]
    walks = [seconds(lambda place=place: panel.go_to(*place)) for place in places]
    return [
        at_most(f"t-SNE of {len(space)} designs", neighbours, 15, "s"),
        at_most(f"a redraw of the map of {len(space)} designs", statistics.median(redraws), 0.2, "s", slowest=max(redraws)),
        Result("the same, with the place decoded and its picture drawn", statistics.median(walks), "s", details={"slowest": max(walks)}),
    ]


def png_of_move(panel: MapPanel, x: float, y: float) -> bytes:
    "The map with its mark elsewhere."
    panel.drawing.move(x, y)
    return png(panel.drawing.figure)
