"""Quality of written texts, and personal data in them."""

import re
import time

import pytest
from datasets import load_from_disk
from test_page import LABELS, make_run, save

from hf_pretext import personal
from hf_pretext.cli import main
from hf_pretext.coverage import mark, report_of_rows, texts_of
from hf_pretext.data import make_dataset
from hf_pretext.hub import find_privacy_report
from hf_pretext.page import PageData
from hf_pretext.pages import load_run, page_of
from hf_pretext.personal import count_personal, find_personal, scrub_text
from hf_pretext.quality import TextQuality, evenly, sampled, scripts_of
from hf_pretext.scrubbing import scrub, scrub_run
from support.tiny import random_texts

SEED = "My bank card was lost on the way home, and now I cannot pay for the train."


def test_copies_and_near_duplicates_are_found():
    fresh = random_texts(200, seed=1, low=8)
    quality = TextQuality.of(
        [*fresh, fresh[3].upper() + "!", SEED.replace("now", "today"), "The walk was red."],
        [SEED],
        [fresh[0], "The walk was red"],
    )
    assert quality.num_texts == quality.num_looked_at == 203
    assert quality.near_duplicates == pytest.approx(1 / 203)
    assert quality.copies_of_seeds == pytest.approx(1 / 203)
    assert quality.copies_of_public == pytest.approx(2 / 203)
    assert TextQuality.of(fresh, [SEED]).copies_of_public is None
    assert TextQuality.from_dict(quality.to_dict()) == quality


def test_many_copies_and_openings_are_noted():
    texts = [f"I would like to {word}" for word in random_texts(50, seed=2)]
    quality = TextQuality.of([*texts, *texts], texts)
    assert quality.near_duplicates == 0.5 and quality.copies_of_seeds == 1
    assert quality.openings[0] == ("i would like", 1.0)
    assert len([line for line in quality.summary.split("\n") if line.startswith("Note: ")]) == 3
    in_form = TextQuality.of([f"Subject: {text}" for text in random_texts(50, seed=2)], texts, (), "Subject: ")
    assert not in_form.openings or "subject" not in in_form.openings[0][0]


def test_lengths_and_scripts_in_any_language():
    texts = ["Ein Brief an die Bank.", "银行卡丢了", "Потеряла карту вчера", "", "\udc80"]
    quality = TextQuality.of(texts, texts)
    assert quality.lengths["median"] == 3 and quality.lengths["longest"] == 5 and quality.lengths["shortest"] == 0
    assert list(scripts_of(texts)) == ["Cyrillic", "Latin", "Han"]
    assert sum(scripts_of(texts).values()) == pytest.approx(1) and scripts_of(["123"]) == {}
    assert sum(quality.histogram["texts"]) == pytest.approx(1)


def test_of_many_texts_a_sample_is_looked_at(monkeypatch):
    monkeypatch.setattr("hf_pretext.quality.MOST_TEXTS", 100)
    quality = TextQuality.of(random_texts(1000), random_texts(10))
    assert quality.num_looked_at == 100 and "a sample of 100" in quality.summary
    assert evenly(range(10), 3) == [0, 4, 9] and evenly("abc", 5) == ["a", "b", "c"]


def test_of_long_texts_the_beginning_of_fewer_is_looked_at(monkeypatch):
    texts = random_texts(1000)
    monkeypatch.setattr("hf_pretext.quality.MOST_CHARACTERS", sum(map(len, texts)) // 4)
    assert 240 < len(sampled(texts)) <= 250 and sampled(texts[:100]) == texts[:100]
    monkeypatch.setattr("hf_pretext.quality.MOST_OF_A_TEXT", 100)
    quality = TextQuality.of([*texts[:50], "word " * 1000], texts[:10])
    assert quality.num_cut == 1 and quality.lengths["longest"] == 20
    assert "Quality of 51 texts (1 by their first 100 characters)" in quality.summary
    assert TextQuality.from_dict(quality.to_dict()) == quality


def test_numbers_of_the_country_that_was_scrubbed_are_looked_for(tmp_path):
    pytest.importorskip("phonenumbers")
    american, german = "Call 415-555-2671, please.", "Ruf 030 901820 an."
    folder = save(make_run([*random_texts(9, seed=5), american, german]), tmp_path / "run")
    scrub_run(folder, tmp_path / "new", "DE")
    quality = PageData.load(tmp_path / "new").quality
    assert quality.region == "DE" and quality.personal == {}
    assert "with phone numbers of DE: none" in quality.summary
    card = (tmp_path / "new" / "README.md").read_text()
    assert "by rules that do not find names (phone numbers as in DE) | none |" in card


def test_the_words_of_a_page_are_found_without_the_rest_of_the_quality(tmp_path, monkeypatch):
    folder = save(make_run([f"I would like to {text}" for text in random_texts(20, seed=5)]), tmp_path / "run")
    monkeypatch.setattr("hf_pretext.quality.count_personal", lambda *_: pytest.fail("it is not used"))
    assert "i would like" in page_of(folder)


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("Mail jo.doe+x@example.co.uk, or call (415) 555-2671.", "Mail [email address], or call [phone number]."),
        ("Or +49 30 901820, please", "Or [phone number], please"),
        ("Card 4111 1111 1111 1111 it is", "Card [payment card] it is"),
        ("Card 4111 1111 1111 1112 it is", "Card 4111 1111 1111 1112 it is"),  # Its last digit does not fit.
        ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN [bank account]."),
        ("Ping 8.8.8.8 or 192.168.0.1", "Ping [IP address] or 192.168.0.1"),
        (
            "My card is no.4111 1111 1111 1111. Its IP is 8.8.8.8.",
            "My card is no.[payment card]. Its IP is [IP address].",
        ),
        ("reach me at...jo@example.com.", "reach me at...[email address]."),
        ("ES91 2100 0418 4502 0005 1332 BIC CAIXESBB", "[bank account] BIC CAIXESBB"),
        (
            "Card 4111 1111 1111 1111 12/27, order 5000 0000 0000 0001",
            "Card [payment card] 12/27, order 5000 0000 0000 0001",
        ),
        ("exp 05/27 4111 1111 1111 1111", "exp 05/27 [payment card]"),
        ("qty 2 4111-1111-1111-1111-05 cvv 123", "qty 2 [payment card]-05 cvv 123"),
        ("4111 1111 1111 1111 5500 0000 0000 0004", "[payment card] [payment card]"),
        ("1.8.8.8.8 and 4111.1111 1111 1111 1111", "1.8.8.8.8 and 4111.1111 1111 1111 1111"),
        ("Version 2.6.24-19 of 2008-10-12, error 0x80004005", "Version 2.6.24-19 of 2008-10-12, error 0x80004005"),
        ("银行 415-555-2671。", "银行 [phone number]。"),
        ("联系a.li@example.com吧", "联系[email address]吧"),
        ("メールはtaro@example.jpまで", "メールは[email address]まで"),
        ("ivan@mail.ruпожалуйста", "[email address]пожалуйста"),
        ("jo@mail.com- thanks, jo@mail.com--call me", "[email address]- thanks, [email address]--call me"),
        ("_jo@mail.com_ or josé@mail.com", "[email address]_ or [email address]"),
        ("иван.петров@mail.ru, пожалуйста", "[email address], пожалуйста"),
        ("nguyễn@mail.vn, Trần.Văn@mail.vn, əli@mail.az", "[email address], [email address], [email address]"),
        ("имя_фамилия@mail.ru, иван2024@mail.ru", "[email address], [email address]"),
        ("ivan.петров@mail.ru, имя-фамилия@mail.ru", "[email address], [email address]"),
        ("李明@example.com, 이메일은jo@example.com", "[email address], 이메일은[email address]"),
    ],
)
def test_personal_data_is_found_by_rules(text, scrubbed):
    pytest.importorskip("phonenumbers")
    assert scrub_text(text) == scrubbed and find_personal(scrub_text(text)) == []
    assert sum(count_personal([text]).values()) == len(set(re.findall(r"\[.*?\]", scrubbed)))


@pytest.mark.parametrize("region", ["UK", "de", "", "USA"])
def test_an_unknown_country_is_refused(region):
    """The package would find no number of that country, and say nothing."""
    pytest.importorskip("phonenumbers")
    with pytest.raises(ValueError, match=f"`region`='{region}' is not a country's code"):
        scrub_text("Nothing", region)


def test_long_texts_without_an_address_take_no_time():
    pytest.importorskip("phonenumbers")
    started = time.process_time()
    assert find_personal("a" * 50_000 + "a.b." * 20_000 + "A1 2345 " * 5_000) == []
    assert find_personal("信" * 50_000 + "信.件." * 20_000 + "a@a." * 20_000 + "a@" + "a.1." * 20_000) == []
    assert time.process_time() - started < 5


def test_without_its_package_personal_data_is_not_looked_for(monkeypatch):
    monkeypatch.setattr(personal, "find_spec", lambda name: None)
    quality = TextQuality.of(["Call 415-555-2671."], [SEED])
    assert quality.personal is None and "pip install 'hf_pretext[personal]'" in quality.summary
    with pytest.raises(ImportError, match="personal"):
        find_personal("x")


def test_a_scrubbed_dataset_keeps_its_guarantee():
    pytest.importorskip("phonenumbers")
    run = make_run([])
    rows = [{"messages": [{"role": "user", "content": "Call 415-555-2671"}]}, {"messages": []}]
    dataset = make_dataset(rows)
    mark(dataset, run.report, texts_of(dataset, columns=("messages",)))
    scrubbed = scrub(dataset)
    assert scrubbed[0]["messages"][0]["content"] == "Call [phone number]"
    assert report_of_rows(scrubbed).covers(run.report) and report_of_rows(scrubbed).num_texts == 2
    assert report_of_rows(scrub(make_dataset([{"text": "A."}]))) is None


def test_the_command_scrubs_a_saved_run(tmp_path, capsys):
    pytest.importorskip("phonenumbers")
    texts = [*random_texts(20, seed=5), "Call 415-555-2671, please."]
    folder = save(make_run(texts, labels=LABELS), tmp_path / "run")
    assert '"phone number": 1' in (folder / "page.json").read_text()
    assert main(["scrub", str(folder), "--output-dir", str(tmp_path / "new")]) == 0
    assert "1 text was scrubbed" in capsys.readouterr().out
    scrubbed = load_from_disk(str(tmp_path / "new"))
    assert scrubbed["text"][-1] == "Call [phone number], please." and scrubbed["kind"][:2] == [0, 1]
    assert report_of_rows(scrubbed) is not None
    page = (tmp_path / "new" / "report.html").read_text()
    assert "[phone number]" in page and "415-555" not in page and "canvas" in page
    assert main(["scrub", str(folder), "--output-dir", str(folder)]) == 2
    assert "Name another one" in capsys.readouterr().err


def test_a_dataset_that_shows_other_rows_than_it_holds_is_not_scrubbed():
    """A guarantee of what a transform shows would go to what the columns hold."""
    run, covered = make_run([]), ["A text.", "Another one."]
    private = make_dataset([{"text": "Ann owes 500."}, {"text": "Bob is ill."}])
    mark(private, run.report, texts_of(make_dataset([{"text": text} for text in covered])))
    shown = private.with_transform(lambda batch: {"text": covered[: len(batch["text"])]})
    assert report_of_rows(shown) is not None and report_of_rows(private) is None
    with pytest.raises(ValueError, match="`dataset` has a transform"):
        scrub(shown)


def test_the_seeds_are_scrubbed_as_well(tmp_path):
    pytest.importorskip("phonenumbers")
    seeds = [*random_texts(10, seed=3), "My mail is ann.lee@example.com, ok."]
    long = f"{'word ' * 399}ann.lee@example.com"  # The page cuts it inside the address.
    folder = save(make_run([*random_texts(10, seed=5), long], seeds=seeds), tmp_path / "run")
    assert "ann.lee@example.com" in (folder / "report.html").read_text()
    scrub_run(folder, tmp_path / "new")
    for name in ("seeds.jsonl", "report.html", "page.json", "README.md"):
        assert "ann.lee" not in (tmp_path / "new" / name).read_text()
    saved, notices = load_run(tmp_path / "new")
    assert not notices and saved.seeds["text"][-1] == "My mail is [email address], ok."
    places = [len(PageData.load(each).points) for each in (folder, tmp_path / "new")]
    assert places[0] == places[1]


def test_seeds_that_are_alike_once_scrubbed_can_be_expanded(tmp_path, models_folder):
    """They are the seeds of the run, so its guarantee covers what is written from them."""
    pytest.importorskip("phonenumbers")
    seeds = [*random_texts(6, seed=3), "Call 415-555-2671, please.", "Call 415-555-2672, please."]
    save(make_run(random_texts(10, seed=5), seeds=seeds), tmp_path / "run")
    scrub_run(tmp_path / "run", tmp_path / "new")
    models = {
        "--expansion-model": models_folder / "expansion_model",
        "--embedding-model": models_folder / "embedding_model",
    }
    options = {"--seeds": tmp_path / "new", "--num-samples": 3, "--output-dir": tmp_path / "more", **models}
    assert main(["expand", *(str(each) for option in options.items() for each in option)]) == 0
    written = load_from_disk(str(tmp_path / "more"))
    assert len(written) == 3 and report_of_rows(written) is not None


@pytest.mark.parametrize("name", ["audit.json", "audit_settings.json"])
def test_an_audited_run_is_not_scrubbed(tmp_path, name):
    folder = save(make_run(random_texts(10, seed=5)), tmp_path / "run")
    (folder / name).write_text("{}")
    with pytest.raises(ValueError, match="holds an audited run"):
        scrub_run(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert find_privacy_report(scrub(load_from_disk(str(folder)))) is None
