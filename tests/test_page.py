"""The page of a run: what it says, what it refuses, and how it behaves in a real browser."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hf_pretext
from hf_pretext import PrivateEvolutionConfig, personal
from hf_pretext.cli import main
from hf_pretext.data import make_dataset
from hf_pretext.data.labels import class_labels
from hf_pretext.models import ModelSource
from hf_pretext.page import PageData
from hf_pretext.page.data import COSTS
from hf_pretext.pages import page_of, push_page, write_page
from hf_pretext.privacy import Plan, PrivacyLedger, PrivacyReport
from hf_pretext.runs.history import RoundRecord
from hf_pretext.runs.run import STAGES
from hf_pretext.saved_runs import SavedRun
from hf_pretext.scrubbing import scrub_run
from support.browser import Browser, find_browser
from support.tiny import random_texts, release

LABELS = {"ham": "messages that people want", "spam": "unwanted <b>advertising</b>"}
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"><svg onload=window.hacked=1>',
    "<!-- <script> {{ 7 * 7 }} {% raw %} -->",
    "</title><base href='http://evil.example/'>",
    "javascript:window.hacked=1//\u2028\u2029 &lt;b&gt; ]]>",
]
needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome is installed")


def make_run(texts, seeds=None, labels=None, public=None, rounds=2, **changes):
    """Make a run as a generator leaves it, without models."""
    settings = {"epsilon": 4.0, "delta": 1e-3, "num_rounds": rounds, "population_size": 32, "labels": labels}
    config = PrivateEvolutionConfig(**settings, label_column=labels and "kind", **changes)
    plain = replace(config, labels=None, label_column=None)
    ledger = PrivacyLedger(Plan.from_config(plain))
    for _ in range(rounds):
        release(ledger, 32)
    seeds = random_texts(20, seed=3) if seeds is None else seeds
    label = [{"kind": number % 2, "share": 0.5} if labels else {} for number in range(max(len(texts), len(seeds)))]
    rows = [{"text": text, "round": 1, "votes": 3.25, **label[number]} for number, text in enumerate(seeds)]
    written = [
        {"text": text, **{name: value for name, value in label[number].items() if name == "kind"}}
        for number, text in enumerate(texts)
    ]
    votes = tuple(np.sort(np.random.default_rng(0).normal(size=32))[::-1].tolist())
    return SavedRun(
        config,
        PrivacyReport.from_ledger(ledger, config, num_clients=1250),
        {"embedding_model": ModelSource("me/embedder", "abc"), "variation_model": ModelSource(given=False)},
        [RoundRecord(number, 32, 20, 12, votes, 0.5) for number in range(1, rounds + 1)],
        make_dataset(rows, class_labels(config)),
        make_dataset(written, class_labels(config)) if texts else None,
        random_texts(30, seed=4) if public is None else public,
        {"embedding": 12.5, "expanding": 100.0},
    )


def save(run, folder):
    run.save(folder, run.maps(lambda texts: np.random.default_rng(len(texts)).normal(size=(len(texts), 8))))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(make_run(random_texts(40, seed=5)), tmp_path_factory.mktemp("saved") / "run")


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def page_json(**changes):
    return json.dumps({"format": 1, "points": [], "quality": None, "seconds": None, "costs": None, **changes})


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_the_page_says_what_the_report_says(folder):
    page = (folder / "report.html").read_text()
    assert data_of(page) == data_of(page_of(folder))
    report = PrivacyReport.from_pretrained(folder)
    assert "40 synthetic texts with a privacy guarantee" in page and "1,250 private clients" in page
    assert f"ε = {report.epsilon:.4g}" in page and "ε = 6.2" in page  # The other one is of an exchange.
    for each in (*report.release_ids, "me/embedder (abc)", "expanding", "100 s", "98.3 %"):
        assert each in page
    assert 'class="releases"' in page and page.count('<th scope="row">') > 20
    shown = data_of(page)
    assert [each["total"] for each in shown["stages"]] == [30, 20, 40]
    assert len(shown["points"]) == 90 and shown["stages"][1]["texts"][0][1] == "round 1, 3.2 votes above the threshold"


def test_a_saved_page_is_made_again_by_the_command(folder, tmp_path, capsys):
    before = (folder / "report.html").read_text()
    assert main(["report", str(folder), "--output", str(tmp_path / "new" / "page.html")]) == 0
    again = (tmp_path / "new" / "page.html").read_text()
    assert data_of(again)["points"] == data_of(before)["points"] and "near-duplicates" in again
    assert "page.html" in capsys.readouterr().out


def test_labels_have_their_table(tmp_path):
    page = page_of(save(make_run(random_texts(40, seed=5), labels=LABELS), tmp_path / "run"))
    assert "unwanted &lt;b&gt;advertising&lt;/b&gt;" in page and 'id="labels"' in page
    assert {note for _, note in data_of(page)["stages"][2]["texts"]} == {"ham", "spam"}


def test_records_and_conversations_are_shown_with_their_lines(tmp_path):
    record = {"text_column": ("subject", "body"), "template": "Subject: {subject}\n\n{body}"}
    talk = [{"role": "user", "content": "My card\n  is lost."}, {"role": "assistant", "content": "<b>Block</b> it."}]
    chat = {"text_column": "talk", "chat_roles": ("user", "assistant")}
    for changes, rows, words in (
        (record, [{"subject": "A card", "body": "It is\n  lost."}], "Subject: A card\n\nIt is\n  lost."),
        (chat, [{"messages": talk}, {"messages": talk * 2}], "My card"),
    ):
        seeds = make_dataset([each | {"round": 1, "votes": 2.0} for each in rows])
        run = replace(make_run([], **changes), seeds=seeds, synthetic=make_dataset(rows))
        page = page_of(save(run, tmp_path / changes["text_column"][0]))
        shown = data_of(page)["stages"][2]["texts"]
        assert len(shown) == len(rows) and words in shown[0][0] and "\n" in shown[0][0] and "<b>Block" not in page


def test_a_federation_says_what_it_cost_the_clients(tmp_path):
    means = {"bytes_down": 4096.5, "bytes_up": 1024.0, "seconds": 0.5}
    counts = {"num_asked": 40, "num_answered": 37, "num_needed": 32, "num_rounds": 2, "is_masked": False}
    assert set(means | counts) == set(COSTS)
    page = page_of(save(replace(make_run(random_texts(5)), costs=means | counts), tmp_path / "run"))
    assert "40 clients were asked" in page and "at least 37 answered" in page and "1,024 bytes from it" in page
    assert "without secure aggregation" in page


def test_texts_that_are_written_later_say_that_it_was_a_simulation(tmp_path):
    """Their cards are made from the saved run. It is on the page and in the card of a scrubbed run too."""
    costs = dict.fromkeys(COSTS, 1.0) | {"is_masked": False}
    folder = save(replace(make_run(random_texts(5)), costs=costs), tmp_path / "run")
    assert SavedRun.load(folder).costs == costs
    if personal.is_installed():
        scrub_run(folder, tmp_path / "scrubbed")
        assert "This was a simulation without secure aggregation" in (tmp_path / "scrubbed" / "README.md").read_text()
    (folder / "page.json").write_text("{")
    assert SavedRun.load(folder).costs is None


def test_nothing_in_texts_is_markup(tmp_path):
    page = page_of(save(make_run(HOSTILE, seeds=HOSTILE, public=HOSTILE), tmp_path / "run"))
    assert "window.hacked" in page
    for words in ("<script>window", "<img", "<svg onload", "<base", "<!-- <script"):
        assert words not in page
    assert page.count("</script>") == 2 and page.count("<script") == 2
    assert [text for text, _ in data_of(page)["stages"][2]["texts"]] == HOSTILE


def test_of_long_texts_fewer_are_shown(monkeypatch):
    monkeypatch.setattr("hf_pretext.page.render.MOST_CHARACTERS", 10_000)
    run = make_run([f"{number} {'long ' * 600}" for number in range(20)])
    shown = data_of(run.page(PageData()))["stages"][2]
    assert [text[-4:] for text, _ in shown["texts"]] == [" […]"] * 4 and shown["total"] == 20


def test_no_request_leaves_the_page(folder):
    page = (folder / "report.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert not re.search(r'(src|href)="(?!#|data:|https://huggingface.co/papers/)', page) and "url(" not in page


def test_a_run_without_texts_says_so(tmp_path):
    page = page_of(save(make_run([]), tmp_path / "run"))
    assert "There are no synthetic texts here" in page and "20 seeds of synthetic text" in page


def test_texts_of_someone_else_are_not_shown(folder):
    make_dataset([{"text": "Planted."}]).save_to_disk(str(folder))
    page = page_of(folder)
    assert "others were put in their place" in page and "Planted" not in page


def test_a_run_of_another_version_has_a_page_without_a_map(folder):
    for content in (None, json.dumps({"format": 99})):
        (folder / "page.json").unlink() if content is None else (folder / "page.json").write_text(content)
        page = page_of(folder)
        assert "another version" in page and "There is no map" in page and "near-duplicates" in page


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("page.json", "{", "page.json.*Delete it"),
        ("page.json", '{"format": 1, "points": [{"stage": "private"}]}', "page.json.*Delete it"),
        ("page.json", page_json(seconds={"ann has the flu": 1.0}), "page.json.*Delete it"),
        ("page.json", page_json(seconds={"embedding": "ann"}), "page.json.*Delete it"),
        ("page.json", page_json(seconds={"embedding": -1.0}), "page.json.*Delete it"),
        ("page.json", page_json(costs={"note": "ann has the flu"}), "page.json.*Delete it"),
        ("page.json", page_json(costs=dict.fromkeys(COSTS, 1)), "page.json.*Delete it"),
        ("page.json", page_json(costs=dict.fromkeys(COSTS, "ann") | {"is_masked": True}), "page.json.*Delete it"),
        ("page.json", page_json(costs=["ann"]), "page.json.*Delete it"),
        ("privacy_report.json", None, "lacks privacy_report.json.*written half"),
        ("models.json", None, "lacks models.json"),
        ("history.json", None, "lacks history.json"),
        ("history.json", '[{"round": 1}]', "is not what hf_pretext writes"),
        ("models.json", "[1]", "is not what hf_pretext writes"),
        ("audit.json", '{"verdict": "x"}', "audit.json' lacks some of"),
        ("evaluation.json", "[", "is not JSON"),
        (
            "evaluation.json",
            '{"before": {}, "after": {}, "difference": {"x": 1}, "num_texts": 1, "num_clients": 1}',
            "Some figures.*move them away",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_by_name(folder, name, content, message):
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        page_of(folder)


def test_other_folders_are_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="the one above it"):
        page_of(tmp_path / "run")
    with pytest.raises(ValueError, match="is a folder"):
        write_page(tmp_path, tmp_path)


def test_what_is_not_covered_is_marked_and_never_published(folder):
    change = {"difference": 0.01, "low": -0.01, "high": 0.03}
    figures = {"before": {"x": 0.1}, "after": {"x": 0.2}, "difference": {"x": change}}
    (folder / "evaluation.json").write_text(json.dumps({**figures, "num_texts": 9, "num_clients": 3}))
    (folder / "metrics.json").write_text(json.dumps({"frechet_initial": 0.125}))
    page = page_of(folder)
    assert "Fréchet distance of the first candidates to held-out text" in page
    assert "not covered by the guarantee" in page and "+0.0100 [-0.0100, +0.0300]" in page and "0.125" in page
    assert "0.125" not in page_of(folder, is_published=True) and 'id="excluded"' not in page_of(
        folder, is_published=True
    )
    audit = {"verdict": "The claim is not refuted.", "claimed_epsilon": 4.0, "epsilon_lower_bound": 1.75}
    (folder / "audit.json").write_text(json.dumps({**audit, "confidence": 0.95}))
    assert "1.750" in page_of(folder)
    with pytest.raises(ValueError, match="audited run"):
        page_of(folder, is_published=True)


def test_without_a_guarantee_the_page_warns(tmp_path):
    run = make_run(random_texts(10))
    page = replace(run, report=replace(run.report, epsilon=float("inf"))).page(PageData())
    assert "without a privacy guarantee" in page and "Treat these texts as private" in page
    assert "Nothing on this page is private" not in page and "only these answers depend" not in page
    unknown = replace(run, report=replace(run.report, epsilon=float("inf")))
    card = (save(unknown, tmp_path / "unknown") / "README.md").read_text()
    assert "There is no finite guarantee" in card
    for claim in (
        "Only these noisy sums depend",
        "costs no more privacy",
        "guided only",
        "Nothing else of the clients",
    ):
        assert claim not in card


def test_the_sum_of_several_runs_lists_each():
    run, other = make_run(random_texts(10)), make_run(random_texts(5), rounds=3)
    page = replace(run, report=PrivacyReport.of_several([run.report, other.report])).page(PageData())
    assert "Run 1, ε = 4" in page and "Run 2, ε = 4" in page and "5 noisy releases" in page and "ε = 8" in page


def test_the_page_goes_when_another_run_without_texts_is_saved(folder):
    assert (folder / "report.html").exists() and (folder / "page.json").exists()
    run = make_run([])
    replace(run, seeds=None, report=SavedRun.load(folder).report).save(folder, {})
    assert not (folder / "report.html").exists() and not (folder / "page.json").exists()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_an_audited_run_is_not_pushed(folder):
    """Also if its audit was killed before it was read."""
    (folder / "audit_settings.json").write_text('{"seed": 1}')
    with pytest.raises(ValueError, match="holds an audited run"):
        push_page(folder, "me/page")
    (folder / "audit_settings.json").unlink()
    # And if its audit lies elsewhere, before a page is written.
    given = ["--output", str(folder / "new.html"), "--audit", str(folder / "elsewhere.json")]
    assert main(["report", str(folder), *given, "--push-to-space", "me/page"]) == 2
    assert not (folder / "new.html").exists()
    page_of(folder)


def test_the_map_shows_texts_of_the_run_only(folder):
    """No digest names the texts of page.json, so they are compared with rows that one names."""
    path = folder / "page.json"
    values = json.loads(path.read_text())
    stages = [point["stage"] for point in values["points"]]
    for change, number in (("text", stages.index("synthetic")), ("note", stages.index("seeds"))):
        values["points"][number][change] = "Ann has the flu"
    values["quality"]["openings"] = [["ann has the", 0.5]]
    path.write_text(json.dumps(values))
    for is_published in (False, True):
        page = page_of(folder, is_published=is_published)
        assert "Ann has" not in page and "ann has" not in page
    assert len(data_of(page_of(folder))["points"]) == len(stages) - 2


def test_public_texts_of_a_map_are_not_pushed(folder):
    values = json.loads((folder / "page.json").read_text())
    values["points"][0]["text"] = "Ann has the flu"
    (folder / "page.json").write_text(json.dumps(values))
    assert values["points"][0]["stage"] == "public"
    page = page_of(folder)
    assert "Ann has the flu" in page and "so they are unchecked" in page
    published = page_of(folder, is_published=True)
    assert "Ann has the flu" not in published and "unchecked" not in published
    assert {point[0] for point in data_of(published)["points"]} == {1, 2}


def test_every_stage_that_is_timed_is_known_to_the_page():
    package = Path(hf_pretext.__file__).parent
    timed = {name for path in package.rglob("*.py") for name in re.findall(r'\.stage\("([^"]*)"', path.read_text())}
    assert timed == set(STAGES)


def test_a_map_without_its_texts_is_empty(folder):
    for path in folder.glob("data-*.arrow"):
        path.unlink()
    (folder / "state.json").unlink()
    assert not [point for point in data_of(page_of(folder))["points"] if point[0] == 2]


@pytest.mark.parametrize("name", ["/home/ann/acme/model", "~/acme/model", "../acme/model", "C:\\acme\\model"])
def test_a_path_of_a_model_is_not_pushed(tmp_path, name):
    """Neither while its folder is there nor when it is gone."""
    source = ModelSource(name)
    assert source.published().name is None
    run = make_run(random_texts(5, seed=5))
    folder = save(replace(run, sources={**run.sources, "expansion_model": source}), tmp_path / "run")
    assert "acme" not in page_of(folder, is_published=True)
    assert ModelSource("me/model").published().name == "me/model"


def test_a_run_without_rounds_has_a_page(folder):
    (folder / "history.json").write_text("[]")
    assert "votes per round" not in page_of(folder)


@needs_browser
def test_in_a_browser_pointing_shows_a_text(browser, folder):
    browser.errors.clear()
    browser.open(folder / "report.html")
    browser.run("document.querySelector('#canvas').scrollIntoView({block: 'center', behavior: 'instant'})")
    left, top, width, height = browser.run(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.querySelector('#canvas').getBoundingClientRect())"
    )
    points = data_of((folder / "report.html").read_text())["points"]
    xs, ys = [point[1] for point in points], [point[2] for point in points]
    stage, x, y, text, _ = points[-1]
    across = 18 + (x - min(xs)) / (max(xs) - min(xs)) * (width - 36)
    up = 18 + (max(ys) - y) / (max(ys) - min(ys)) * (height - 36)
    browser.point_at(left + across, top + up)
    assert text in browser.run("document.querySelector('#tip').innerText")
    assert not browser.run("document.querySelector('#tip').hidden") and stage == 2
    assert browser.run("document.querySelectorAll('table.releases tbody tr').length") >= 1
    assert browser.errors == []


@needs_browser
def test_in_a_browser_the_keyboard_is_enough(browser, folder):
    browser.errors.clear()
    browser.open(folder / "report.html", dark=True)
    browser.run("document.querySelector('#canvas').focus()")
    read = set()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        browser.press(key)
        read.add(browser.run("document.querySelector('#reading').innerText"))
    assert len(read) == 3 and not any("No text" in each for each in read)
    browser.run("document.querySelector('[data-tab=\"2\"]').focus()")
    browser.press("ArrowRight")
    assert browser.run("document.querySelector('[data-tab=\"1\"]').getAttribute('aria-selected')") == "true"
    assert "of 20" in browser.run("document.querySelector('#where').innerText")
    browser.click("#on")
    assert browser.run("document.querySelector('#where').innerText").startswith("11 to 20")
    seed = data_of((folder / "report.html").read_text())["stages"][1]["texts"][7][0]
    browser.run("document.querySelector('#find').focus()")
    browser.type(seed)
    assert browser.run("document.querySelector('#texts').innerText").count(seed) == 1
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    assert browser.errors == []


@needs_browser
def test_in_a_browser_hostile_texts_do_nothing(browser, tmp_path):
    page = save(make_run(HOSTILE, seeds=HOSTILE, public=HOSTILE), tmp_path / "run") / "report.html"
    browser.errors.clear(), browser.requests.clear()
    browser.open(page, width=390, height=800, mobile=True)
    browser.run("document.querySelector('#canvas').focus()")
    browser.press("ArrowRight")
    assert browser.run("typeof window.hacked") == "undefined" and browser.errors == []
    assert {each.partition(":")[0] for each in browser.requests} == {"file"}
    assert all(each in browser.run("document.querySelector('#texts').textContent") for each in HOSTILE)
    assert browser.run("document.documentElement.scrollWidth") <= 390  # Nothing sticks out of a phone.


@needs_browser
def test_in_a_browser_a_large_run_opens_fast(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(SavedRun, "quality", lambda run: None)  # It takes seconds, and is tested elsewhere.
    texts = [f"{text} {number}" for number, text in enumerate(random_texts(500, seed=6) * 100)]
    run = make_run(texts, seeds=random_texts(1000, seed=7), public=random_texts(2000, seed=8))
    maps = run.maps(lambda texts: np.random.default_rng(1).normal(size=(len(texts), 8)))
    (tmp_path / "page.html").write_text(run.page(run.page_data(maps)))
    browser.errors.clear()
    assert browser.open(tmp_path / "page.html") < 3
    where = browser.run("document.querySelector('#where').innerText")
    assert where == "1 to 10 of a sample of 1,000 (there are 50,000)"
    assert browser.errors == [] and (tmp_path / "page.html").stat().st_size < 2_000_000
