"""The page of a run: one HTML file that needs no network and shows nothing private."""

from .data import PageData as PageData
from .data import Point as Point
from .render import Excluded as Excluded
from .render import RunFacts as RunFacts
from .render import ShownText as ShownText
from .render import cut as cut
from .render import render_page as render_page
