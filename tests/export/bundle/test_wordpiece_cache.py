"""Words that were seen before give the very tokens that the tokenizer gives, and what is not plain is left to it."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from export.bundle import wordpiece_cache
from export.bundle.classifier import GraphTokenizer
from export.bundle.wordpiece_cache import WordPieceCache

MOST = 12
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["card", "Card", "re", "##fund", "##ed", "where", "is", "my", "##s", "1", "##2", "a", "##a", *".,?!'-%[]"]


def tokenizer(
    lowercase=True, model=None, normalizer=None, pre_tokenizer=None, added=(), template=True, most=MOST, side="right"
):
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *PIECES])}
    made = Tokenizer(model or models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=20))
    made.normalizer = normalizer or normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    if template:
        special = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP] [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=special
        )
    made.add_special_tokens([*SPECIAL, *added])
    made.enable_truncation(most, direction=side)
    return made


TOKENIZERS = {
    "lower": tokenizer(),
    "cased": tokenizer(lowercase=False),
    "bare": tokenizer(template=False),
    "left": tokenizer(side="left"),
    "bare left": tokenizer(template=False, side="left"),
}
KNOWN = {name: WordPieceCache.for_tokenizer(made) for name, made in TOKENIZERS.items()}
WORDS = ["refunds", "CARDS", "caf\u00e9", "12", "a" * 15, "a" * 30]
bits = st.sampled_from([*PIECES, *SPECIAL, *WORDS, *" \n\t\0\x0b\x1f"])
texts = st.lists(bits, max_size=20).map("".join) | st.text(alphabet=string.printable, max_size=40) | st.text(max_size=9)


def expected(made, text):
    encoding = made.encode(text)
    return encoding.ids, bool(encoding.overflowing)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=texts)
def test_what_is_plain_gets_the_tokens_that_the_tokenizer_gives(name, text):
    found = KNOWN[name].encode(text)
    assert found is None or found == expected(TOKENIZERS[name], text)


@given(text=st.text(alphabet=sorted({*string.ascii_letters, *string.digits, *string.punctuation, *" \t\n\r"} - {"["})))
def test_all_printable_ascii_is_plain_but_for_what_begins_a_token_of_its_own(text):
    assert KNOWN["lower"].encode(text) is not None


@pytest.mark.parametrize("text", ["[SEP]", "a [", "caf\u00e9", "\0", "\x0b", "a\x1fb", "\x7f", "\ud800", "\u2028"])
def test_other_texts_are_left_to_the_tokenizer(text):
    assert KNOWN["lower"].encode(text) is None


def test_a_text_is_cut_where_the_graph_ends():
    made, known = TOKENIZERS["lower"], KNOWN["lower"]
    for count in (MOST - 4, MOST - 3, MOST - 2, 500):
        assert known.encode("a " * count) == expected(made, "a " * count)
    assert known.encode("a " * (MOST - 3))[1] is False
    assert known.encode("a " * (MOST - 2))[1] is True


def test_the_side_of_the_tokenizer_is_what_is_left_out():
    text = "where " * MOST + "my card"
    for name in ("left", "bare left"):
        ids, truncated = KNOWN[name].encode(text)
        assert (ids, truncated) == expected(TOKENIZERS[name], text)
        assert (len(ids), truncated) == (MOST, True)
        assert TOKENIZERS[name].decode(ids).endswith("my card")
    assert not TOKENIZERS["lower"].decode(KNOWN["lower"].encode(text)[0]).endswith("card")


def test_a_word_of_more_pieces_than_the_graph_reads_is_left_to_the_tokenizer():
    for name in ("bare", "bare left"):
        assert KNOWN[name].encode("a" * (MOST + 1)) is None
        assert KNOWN[name].encode("a" * MOST) == expected(TOKENIZERS[name], "a" * MOST)


def test_a_word_is_asked_for_once_and_few_are_kept(monkeypatch):
    monkeypatch.setattr(wordpiece_cache, "_MOST_WORDS", 5)
    made = tokenizer()
    known = WordPieceCache.for_tokenizer(made)
    asked = []
    learn = known._learn
    monkeypatch.setattr(known, "_learn", lambda word: (asked.append(word), learn(word))[1])
    known.encode("where is my card is my card")
    assert asked == ["where", "is", "my", "card"]
    for number in range(50):
        assert known.encode(f"card {number}") == expected(made, f"card {number}")
        assert len(known._pieces) <= 5


def test_a_long_word_is_not_kept():
    known = WordPieceCache.for_tokenizer(tokenizer())
    known.encode("a" * 1000)
    assert known._pieces == {}


@pytest.mark.parametrize(
    "other",
    [
        {"model": models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")},
        {"normalizer": normalizers.Lowercase()},
        {"pre_tokenizer": pre_tokenizers.Whitespace()},
        {"added": ["card"]},
        {"added": [AddedToken("\u2581", normalized=False)]},
        {"most": 4},
    ],
)
def test_a_tokenizer_of_another_kind_has_no_cache(other):
    assert WordPieceCache.for_tokenizer(tokenizer(**other)) is None


def test_a_graphs_tokenizer_has_a_cache_and_gives_every_text_its_tokens(tmp_path):
    made = TOKENIZERS["lower"]
    made.save(str(tmp_path / "tokenizer.json"))
    graph = GraphTokenizer(tmp_path / "tokenizer.json", MOST)
    for text in ("Where is my card?", "caf\u00e9 [SEP] card", "a " * 50):
        encoded = graph.encode(text)
        assert (encoded.ids, encoded.truncated) == expected(made, text)
    assert graph._cache is not None
