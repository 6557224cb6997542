"""The project's own extractor as a whole: what a page says comes out, its frame stays out, nothing is lost."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.extract import Extract
from stages.extraction import figures, model
from stages.extraction.engine import main_text
from stages.extraction.page import Parser
from stages.kernels.html_features import FEATURES, SECOND_FEATURES

ENGLISH = (
    "The mill by the upper ford ground barley for nine villages, until the dry summer when the river left its bed.",
    "Every spring the miller's sons lifted the stones, cut the furrows anew, and set them back before geese came.",
    "Farmers paid with every sixteenth sack, which nobody thought too much, since the next mill was a day's walk away.",
)
CHINESE = (
    "村子东头的磨坊已经停了三十年，木轮还挂在水渠上，孩子们夏天喜欢坐在上面乘凉。",
    "磨面的人说，石磨每年都要重新凿一次，凿得太浅，面粉就粗，凿得太深，石头又容易裂开。",
    "后来镇上通了电，大家改用机器磨面，可是老人们仍然觉得，还是石磨磨出来的面更香一些。",
)
JAPANESE = (
    "村のはずれにある水車小屋は、三十年前に動くのをやめましたが、今でも屋根の下に大きな石臼が残っています。",
    "秋になると近所の人たちが集まり、昔の道具を磨きながら、そばを打って一緒に食べるのを楽しみにしています。",
    "子どもたちは川の水をせき止めて小さな水車を作り、夕方までその回る様子を飽きずに眺めていました。",
)
KOREAN = (
    "마을 끝에 있는 물레방아는 삼십 년 전에 멈추었지만 지붕 아래에는 아직도 커다란 맷돌이 남아 있습니다.",
    "가을이 되면 이웃 사람들이 모여 오래된 도구를 닦고 메밀국수를 만들어 함께 나누어 먹습니다.",
    "아이들은 냇물을 막아 작은 물레방아를 만들고 해가 질 때까지 그것이 도는 모습을 지켜보았습니다.",
)
TRADITIONAL = (
    "村子東頭的磨坊已經停了三十年，木輪還掛在水渠上，孩子們夏天喜歡坐在上面乘涼。",
    "磨麵的人說，石磨每年都要重新鑿一次，鑿得太淺，麵粉就粗，鑿得太深，石頭又容易裂開。",
    "後來鎮上通了電，大家改用機器磨麵，可是老人們仍然覺得，還是石磨磨出來的麵更香一些。",
)
RUSSIAN = (
    "Мельница у верхнего брода молола ячмень для девяти деревень, пока в сухое лето река не ушла из русла.",
    "Каждую весну сыновья мельника поднимали жернова, заново прорезали бороздки и ставили камни на место.",
    "Крестьяне платили каждым шестнадцатым мешком, и никто не считал это слишком дорогим.",
)
GREEK = (
    "Ο μύλος στο πάνω πέρασμα άλεθε κριθάρι για εννέα χωριά, ώσπου ένα ξερό καλοκαίρι το ποτάμι άλλαξε δρόμο.",
    "Κάθε άνοιξη οι γιοι του μυλωνά σήκωναν τις πέτρες, χάραζαν πάλι τα αυλάκια και τις έβαζαν στη θέση τους.",
    "Οι αγρότες πλήρωναν με ένα σακί στα δεκαέξι, και κανείς δεν το έβρισκε πολύ ακριβό.",
)
LANGUAGES = {
    "en": ENGLISH, "zh": CHINESE, "zh-Hant": TRADITIONAL, "ja": JAPANESE, "ko": KOREAN, "ru": RUSSIAN, "el": GREEK,
}  # fmt: skip
MENU = '<nav><ul><li><a href="/">Startpage</a></li><li><a href="/k">Kontaktform</a></li></ul></nav>'


def page(*parts: str, title: str = "The mill") -> str:
    """A page with a frame: menu, article, related links, footer."""
    body = "\n".join(part if part.startswith("<") else f"<p>{part}</p>" for part in parts)
    return (
        f"<!DOCTYPE html><html><head><title>{title}</title></head><body><header>{MENU}</header><main><article>"
        f"<h1>{title}</h1>{body}</article><aside class=related><ul><li><a href=/1>Nine other mills</a></li>"
        "<li><a href=/2>Fords worth a visit</a></li></ul></aside></main>"
        "<footer><p>Imprintpage</p></footer></body></html>"
    )


def text_of(markup: str) -> str:
    docs = pa.table({"text": [markup], "mime": ["text/html"]})
    row = Extract(engine="gristmill").apply(docs).to_pylist()[0]
    assert row["drop"] is None
    return str(row["text"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_paragraphs_come_out_and_the_frame_does_not(language: str) -> None:
    paragraphs = LANGUAGES[language]
    text = text_of(page(*paragraphs, title=paragraphs[0][:12]))
    assert all(paragraph in text for paragraph in paragraphs)
    assert not re.search("Startpage|Kontaktform|Nine other mills|Fords|Imprintpage", text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_list_is_text_wherever_it_stands(language: str) -> None:
    items = "".join(f"<li>{paragraph}</li>" for paragraph in LANGUAGES[language])
    text = text_of(f"<html><head><title>x</title></head><body><h1>x</h1><ul>{items}</ul></body></html>")
    assert all(f"- {paragraph}" in text for paragraph in LANGUAGES[language])


@pytest.mark.parametrize(
    "frame",
    ["<div class=sidebar>{}</div>", "<aside>{}</aside>", "<form>{}</form>", "<footer>{}</footer>", "<nav>{}</nav>"],
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_page_that_is_all_frame_still_gives_its_text(frame: str, language: str) -> None:
    paragraphs = "".join(f"<p>{paragraph}</p>" for paragraph in LANGUAGES[language])
    text = text_of(f"<html><head><title>x</title></head><body>{frame.format(paragraphs)}</body></html>")
    assert all(paragraph in text for paragraph in LANGUAGES[language])


@pytest.mark.parametrize(
    "inline",
    ["<time datetime=1874>{}</time>", "<span itemprop=author>{}</span>", "<a rel=tag href=/t>{}</a>",
     "<b class=share>{}</b>",
     "<span class='related tags'>{}</span>", "<a class=next href=/2>{}</a>", "<i>{}</i>", "<font>{}</font>"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("word", "before", "after"), [("barley", "They ground ", " here."), ("麦", "他们在这里磨", "子。")]
)
def test_words_of_a_sentence_stay_whatever_their_element_says(inline: str, word: str, before: str, after: str) -> None:
    text = text_of(page(ENGLISH[0], f"{before}{inline.format(word)}{after}", ENGLISH[1]))
    assert before + word + after in text


def test_items_that_are_partly_links_stay_and_their_words_too() -> None:
    items = (
        "<ul><li><a href=1>Stones of the ford</a>, an essay on millstones with forty drawings by the author.</li></ul>"
    )
    assert "- Stones of the ford, an essay on millstones with forty" in text_of(page(*ENGLISH, items, ENGLISH[0]))


def test_tables_code_and_formulas_keep_their_form() -> None:
    table = "<table><tr><th>Year<th>Sacks<tr><td>1871<td>640 sacks<tr><td>1872<td>588 sacks</table>"
    code = "<pre><code>for sack in sacks:\n    if sack.full:\n        grind(sack)</code></pre>"
    formula = (
        "<p>The power is <math alttext='P=\\rho g h'><mi>P</mi></math> and 10<sup>3</sup> W per m<sup>2</sup>.</p>"
    )
    text = text_of(page(ENGLISH[0], table, ENGLISH[1], code, formula, ENGLISH[2]))
    assert "Year | Sacks\n1871 | 640 sacks\n1872 | 588 sacks" in text
    assert "for sack in sacks:\n    if sack.full:\n        grind(sack)" in text
    assert "The power is $P=\\rho g h$ and 10^3 W per m^2." in text


def test_a_body_that_script_would_show_is_read() -> None:
    hidden = "".join(f"<p>{paragraph}</p>" for paragraph in CHINESE)
    markup = f"<body>{MENU}<div id=js_content style='visibility: hidden'>{hidden}</div></body>"
    assert all(paragraph in text_of(markup) for paragraph in CHINESE)


@pytest.mark.parametrize("attribute", ["hidden", "style='display: none'", "style='color:red;VISIBILITY:hidden'"])
def test_what_a_page_hides_stays_out(attribute: str) -> None:
    text = text_of(page(ENGLISH[0], f"<p {attribute}>{ENGLISH[1]}</p>", f"<div {attribute}><p>{ENGLISH[1]}</p></div>"))
    assert ENGLISH[0] in text
    assert ENGLISH[1] not in text


def test_signs_of_icon_fonts_and_of_permalinks_stay_out() -> None:
    text = text_of(
        page(ENGLISH[0], "<h2>Stones<a href='#s' class=headerlink>¶</a></h2>", f"<i>\ue01f</i> {ENGLISH[1]}")
    )
    assert not re.search("[¶\ue000-\uf8ff]", text)
    assert "Stones\n\n" + ENGLISH[1] in text


@pytest.mark.parametrize("blank", ["", " ", "<p>\n</p>", "<script>x</script>", "<!-- text -->", "<p>\ue001&nbsp;</p>"])
def test_a_page_without_text_gives_none(blank: str) -> None:
    assert main_text(blank.encode()) == ""


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["word", "<p>", "<div class=nav>", "</div>", "<a href=x>", "</a>", "汉", "<li>", "<td>",
                                 "<h2>", "&amp;", "<pre>", "<b", "<!--", "\0"]), max_size=30).map("".join))  # fmt: skip
def test_features_are_finite_and_a_page_with_text_gives_text(markup: str) -> None:
    tree = Parser().parse(np.frombuffer(markup.encode() or b" ", np.uint8))
    likely, found = model.shipped().likely(tree)
    rows, _ = figures.first_features(tree, found, model.shipped().words, model.shipped().types)
    assert rows.shape == (len(tree.blocks), FEATURES + SECOND_FEATURES)
    assert np.isfinite(rows[:, :FEATURES]).all()
    assert ((likely > 0) & (likely < 1)).all()
    inked = any(found.rows[:, model.INK] > 0)
    assert bool(main_text(markup.encode())) == inked


def test_the_model_of_another_version_is_refused(tmp_path) -> None:
    with np.load(model.PATH) as file:
        arrays = dict(file)
    np.savez(tmp_path / "other.npz", **(arrays | {"words": arrays["words"][:4]}))
    with pytest.raises(ValueError, match="another version"):
        model.read(tmp_path / "other.npz")
