"""What the page of a run needs that no other file of the run holds: `page.json`."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..artifacts import PAGE_DATA_NAME
from ..files import read_json, write_json
from ..quality import TextQuality
from ..runs.run import STAGES as TIMED

FORMAT = 1
"""Format of the file. A file of another format is not read."""

_REGION = re.compile("[A-Z]{2}")

STAGES = {"public": "public texts", "seeds": "seeds", "synthetic": "synthetic texts"}
"""What people call each kind of text of a run."""

COSTS = ("bytes_down", "bytes_up", "seconds", "num_asked", "num_answered", "num_needed", "num_rounds", "is_masked")
"""What a federation says of its releases. All of it is numbers, but for whether answers were masked."""


@dataclass(frozen=True)
class Point:
    """A text on the map.

    Args:
        stage (`str`): One of `STAGES`.
        text (`str`): The text.
        x (`float`): First principal component of its embedding.
        y (`float`): Second principal component.
        note (`str`): What else is known of it, such as its label or its votes.
    """

    stage: str
    text: str
    x: float
    y: float
    note: str = ""


@dataclass(frozen=True)
class PageData:
    """The map, the timings and the quality of a run. Nothing of it is private.

    Args:
        points (`Sequence` of `Point`): The map, of some texts of each stage.
        quality (`TextQuality`, *optional*): Quality of the synthetic texts.
        seconds (`Mapping[str, float]`, *optional*): Time of each stage of public work.
        costs (`Mapping[str, Any]`, *optional*): What the releases cost the clients of a federation.
    """

    points: Sequence[Point] = ()
    quality: TextQuality | None = None
    seconds: Mapping[str, float] | None = None
    costs: Mapping[str, Any] | None = None

    def save(self, folder: Path) -> None:
        """Write the file to a folder."""
        quality = self.quality and self.quality.to_dict()
        points = [asdict(point) for point in self.points]
        others = {"seconds": self.seconds and dict(self.seconds), "costs": self.costs and dict(self.costs)}
        write_json(folder / PAGE_DATA_NAME, {"format": FORMAT, "points": points, "quality": quality, **others})

    @classmethod
    def load(cls, folder: Path) -> "PageData | None":
        """Read the file from a folder. None if there is none, or one of another format.

        Raises:
            ValueError: The file is damaged, or not what this library writes.
        """
        path = folder / PAGE_DATA_NAME
        if not path.is_file():
            return None
        try:
            values = read_json(path)
            if values["format"] != FORMAT:
                return None
            quality = values["quality"] and TextQuality.from_dict(values["quality"])
            if quality and not _REGION.fullmatch(quality.region):
                raise ValueError("not a country")
            points = [_checked(Point(**each)) for each in values["points"]]
            return cls(points, quality, _seconds(values["seconds"] or {}), _costs(values["costs"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{str(path)!r} is not what hf_pretext writes: it is damaged, or from somewhere else. Delete it. The "
                "page is then made without a map."
            ) from error


def _checked(point: Point) -> Point:
    if point.stage not in STAGES or not isinstance(point.text, str) or not isinstance(point.note, str):
        raise ValueError("not a point")
    _number(point.x), _number(point.y)
    return point


def _seconds(values: Mapping[str, Any]) -> dict[str, float]:
    """Read the times of known stages: another name would be a text on the page that no digest names."""
    if not set(values) <= set(TIMED) or any(_number(took) < 0 for took in values.values()):
        raise ValueError("not times")
    return {name: float(took) for name, took in values.items()}


def _costs(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    if set(values) != set(COSTS) or not isinstance(values["is_masked"], bool):
        raise ValueError("not costs")
    if any(_number(values[name]) < 0 for name in COSTS if name != "is_masked"):
        raise ValueError("not costs")
    return dict(values)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)
