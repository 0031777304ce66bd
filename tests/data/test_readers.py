"""Every form of data set, written here as its publisher writes it, gives the same events and catalogue."""

import gzip
import json

import polars as pl
import pytest

from distill.config import Columns, Data
from distill.data.readers import locate, read
from distill.errors import UserError

PAIRS = [("u1", "10"), ("u1", "7"), ("u2", "7")]
TEXTS = {
    "7": ("Heat (1995)", "Heat (1995). Action|Crime"),
    "10": ("Jumanji (1995)", "Jumanji (1995). Adventure|Children"),
}


def load(path, **settings):
    summary = {}
    raw = read(locate(data := Data(path=str(path), **settings)), data.columns, summary)
    items = (
        {}
        if raw.items is None
        else {i: (title, text) for i, title, text in raw.items.select("item_id", "title", "text").rows()}
    )
    return raw.events, items, summary


def pairs(events):
    return events.select(pl.col("user_id", "item_id").cast(pl.String)).rows()


def write(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


ITEMS_CSV = "item_id,title,genres\n7,Heat (1995),Action|Crime\n10,Jumanji (1995),Adventure|Children\n"
FOLDERS = {
    "csv": {
        "interactions.csv": "user_id,item_id,rating,timestamp\nu1,10,4,5\nu1,7,3,6\nu2,7,5,1\n",
        "items.csv": ITEMS_CSV,
    },
    "tsv": {
        "interactions.tsv": "user_id\titem_id\trating\ttimestamp\nu1\t10\t4\t5\nu1\t7\t3\t6\nu2\t7\t5\t1\n",
        "items.csv": ITEMS_CSV,
    },
    "semicolon": {
        "interactions.txt": "UserId;ItemId;Score;Time\nu1;10;4;5\nu1;7;3;6\nu2;7;5;1\n",
        "items.csv": ITEMS_CSV,
    },
    "recbole": {
        "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "u1\t10\t4\t5\nu1\t7\t3\t6\nu2\t7\t5\t1\n",
        "x.item": "item_id:token\tmovie_title:token_seq\tclass:token_seq\n7\tHeat (1995)\tAction|Crime\n"
        "10\tJumanji (1995)\tAdventure|Children\n",
        "x.user": "user_id:token\tage:token\nu1\t20\nu2\t30\n",
    },
    "movielens csv": {
        "ratings.csv": "userId,movieId,rating,timestamp\nu1,10,4.0,5\nu1,7,3.0,6\nu2,7,5.0,1\n",
        "movies.csv": ITEMS_CSV.replace("item_id", "movieId"),
        "links.csv": "movieId,imdbId,tmdbId\n7,1,2\n",
        "tags.csv": "userId,movieId,tag,timestamp\nu1,7,x,1\n",
    },
    "movielens 1m": {
        "ratings.dat": "u1::10::4::5\nu1::7::3::6\nu2::7::5::1\n",
        "movies.dat": "7::Heat (1995)::Action|Crime\n10::Jumanji (1995)::Adventure|Children\n",
        "users.dat": "u1::F::1::10::48067\nu2::M::56::16::70072\n",
    },
    "movielens 100k": {
        "u.data": "u1\t10\t4\t5\nu1\t7\t3\t6\nu2\t7\t5\t1\n",
        "u.item": "7|Heat (1995)|01-Jan-1995||http://us.imdb.com/x|0|1|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0\n"
        "10|Jumanji (1995)|01-Jan-1995||http://us.imdb.com/y|0|0|1|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n",
    },
}


@pytest.mark.parametrize("name", FOLDERS)
def test_forms_with_ratings_times_and_titles(tmp_path, name):
    write(tmp_path, FOLDERS[name])
    events, items, summary = load(tmp_path)
    assert pairs(events) == PAIRS
    assert events["rating"].to_list() == [4.0, 3.0, 5.0]
    assert events["order"].to_list() == [5, 6, 1]
    expected = {key: tuple(part.replace("|Children", "|Children's") for part in pair) for key, pair in TEXTS.items()}
    assert items == (expected if name == "movielens 100k" else TEXTS)
    assert list(items) == ["7", "10"]
    assert summary["rows read"] == 3


@pytest.mark.parametrize("name", FOLDERS)
def test_forms_read_the_same_from_gzip_and_from_the_file_itself(tmp_path, name):
    write(tmp_path, FOLDERS[name])
    expected = load(tmp_path)[:2]
    source = locate(Data(path=str(tmp_path)))
    by_file = load(source.interactions)[:2]
    for path in tmp_path.iterdir():
        (tmp_path / (path.name + ".gz")).write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    for events, items in (by_file, load(tmp_path)[:2]):
        assert events.equals(expected[0]) and items == expected[1]


def test_parquet_with_integer_ids_and_datetimes(tmp_path):
    events = pl.DataFrame(
        {"user": [1, 1, 2], "item": [10.0, 7.0, None], "date": ["2024-01-01", "2024-01-02", "2024-01-03"]}
    )
    events.with_columns(pl.col("date").str.to_datetime("%Y-%m-%d")).write_parquet(tmp_path / "interactions.parquet")
    items = pl.DataFrame({"item": [7, 10], "name": ["a", "b"], "labels": [["x", "y"], []], "flag": [True, False]})
    items.write_parquet(tmp_path / "items.parquet")
    events, items, _ = load(tmp_path)
    assert pairs(events) == [("1", "10"), ("1", "7"), ("2", None)]
    assert events["order"].is_sorted() and events["order"].dtype == pl.Int64
    assert items == {"7": ("a", "a. x, y"), "10": ("b", "b")}


def test_lastfm_tables_with_windows_line_ends_and_stray_quotes(tmp_path):
    (tmp_path / "user_artists.dat").write_bytes(b"userID\tartistID\tweight\r\n2\t51\t13883\r\n2\t52\t11690\r\n")
    write(
        tmp_path,
        {
            "artists.dat": 'id\tname\turl\tpictureURL\n51\t"Weird Al" Yankovic\thttp://a\thttp://b\n52\tRoyce da 5\'9"\thttp://c\t\n',
            "user_friends.dat": "userID\tfriendID\n2\t275\n",
        },
    )
    events, items, _ = load(tmp_path)
    assert pairs(events) == [("2", "51"), ("2", "52")]
    assert events["rating"].to_list() == [13883.0, 11690.0]
    assert "order" not in events.columns
    assert items == {"51": ('"Weird Al" Yankovic',) * 2, "52": ("Royce da 5'9\"",) * 2}


def test_citeulike_lists(tmp_path):
    files = {
        "users.dat": "2 1 0\n0\n1 2\n",
        "item-tag.dat": "1 1\n2 0 1\n0",
        "tags.dat": "small_world\nscale-free\n",
    }
    write(tmp_path, files)
    events, items, _ = load(tmp_path)
    assert pairs(events) == [("0", "1"), ("0", "0"), ("2", "2")]
    assert items == {
        "0": ("scale free", "scale free"),
        "1": ("small world, scale free", "small world, scale free"),
        "2": ("2", ""),
    }
    for name, text in files.items():
        (tmp_path / name).unlink()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert load(tmp_path)[1] == items
    for name in files:
        (tmp_path / f"{name}.gz").unlink()
    write(tmp_path, files | {"users.dat": "2 1 0\n3 1 2\n"})
    with pytest.raises(UserError, match=r"users.dat: line 2 begins with '3' but has 2 ids"):
        load(tmp_path)
    write(tmp_path, files | {"item-tag.dat": "1 1\n1 7\n"})
    with pytest.raises(UserError, match=r"line 2 has the tag '7', but tags.dat has tags 0 to 1"):
        load(tmp_path)
    (tmp_path / "tags.dat").unlink()
    with pytest.raises(UserError, match=r"needs tags.dat beside it"):
        load(tmp_path)


def amazon(year):
    if year == 2023:
        reviews = [
            {
                "rating": 5.0,
                "title": "Great",
                "text": "…",
                "images": [],
                "asin": f"V{i}",
                "parent_asin": i,
                "user_id": u,
                "timestamp": t,
            }
            for t, (u, i) in enumerate(PAIRS)
        ]
    else:
        reviews = [
            {
                "reviewerID": u,
                "asin": i,
                "helpful": [0, 1],
                "overall": 5.0,
                "summary": "s",
                "unixReviewTime": t,
                "reviewTime": "09 13, 2009",
            }
            for t, (u, i) in enumerate(PAIRS)
        ]
    key = "parent_asin" if year == 2023 else "asin"
    meta = [
        {
            "main_category": "Films",
            "title": "Heat",
            "average_rating": 4.5,
            "description": ["A film.", "Long."],
            key: "7",
            "details": {"a": 1},
        },
        {
            "main_category": "Films",
            "title": "Jumanji",
            "average_rating": 4.0,
            "description": [],
            key: "10",
            "price": None,
        },
    ]
    return reviews, meta


@pytest.mark.parametrize("year", [2014, 2023])
@pytest.mark.parametrize("zipped", [False, True])
def test_amazon_reviews(tmp_path, year, zipped):
    for name, records in zip(("Films.jsonl", "meta_Films.jsonl"), amazon(year), strict=True):
        content = "\n".join(map(json.dumps, records)).encode()
        path = tmp_path / (name + ".gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)
    events, items, _ = load(tmp_path)
    assert pairs(events) == PAIRS
    assert events["order"].to_list() == [0, 1, 2]
    assert events["rating"].to_list() == [5.0] * 3
    assert items == {"7": ("Heat", "Heat. Films. A film., Long."), "10": ("Jumanji", "Jumanji. Films")}


def test_of_several_amazon_categories_the_meta_file_of_the_same_name_is_taken(tmp_path):
    reviews, meta = amazon(2023)
    for name in ("Books", "Films"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, reviews)))
        (tmp_path / f"meta_{name}.jsonl").write_text("\n".join(map(json.dumps, meta)))
    assert locate(Data(path=str(tmp_path / "Films.jsonl"))).items.name == "meta_Films.jsonl"
    with pytest.raises(UserError, match=r"several interactions files: Books.jsonl, Films.jsonl"):
        load(tmp_path)


def test_a_file_of_any_name_with_named_columns_and_an_items_file_elsewhere(tmp_path):
    (tmp_path / "shop").mkdir()
    write(tmp_path, {"log.csv": "who|what|when|how much\na|x|3|9\n"})
    write(tmp_path / "shop", {"goods.csv": "code;label;story;colour\nx;Chair;Sit on it.;red\n"})
    columns = Columns(
        user_id="who", item_id="what", order="when", rating="how much", title="label", text=["label", "colour"]
    )
    with pytest.raises(UserError, match="no item id column among: code, label, story, colour"):
        load(tmp_path / "log.csv", items=str(tmp_path / "shop" / "goods.csv"), columns=columns)
    write(tmp_path / "shop", {"goods.csv": "what;label;story;colour\nx;Chair;Sit on it.;red\n"})
    events, items, summary = load(tmp_path / "log.csv", items=str(tmp_path / "shop" / "goods.csv"), columns=columns)
    assert events.rows() == [("a", "x", 9.0, 3)]
    assert items == {"x": ("Chair", "Chair. red")}
    assert summary["columns"] == "user_id: who, item_id: what, rating: how much, order: when"


def test_an_items_file_of_another_form_can_be_named(tmp_path):
    write(tmp_path, {"log.csv": "user,item\nu,7\n", "movies.dat": FOLDERS["movielens 1m"]["movies.dat"]})
    assert load(tmp_path / "log.csv", items=str(tmp_path / "movies.dat"))[1] == TEXTS


def test_text_leaves_out_ids_addresses_numbers_and_empty_words(tmp_path):
    columns = [
        "color",
        "item_id",
        "name",
        "parent_id",
        "imageURL",
        "site",
        "price",
        "in_stock",
        "release_year",
        "note",
        "genres",
    ]
    rows = [
        ["red", "1", " A  b\t", "p1", "http://i", "https://a.b", "9.5", "True", "1999", "", "(no genres listed)"],
        ["nan", "2", "C", "p2", "http://j", "www.c.d", "3", "False", "", "None", "x"],
    ]
    write(tmp_path, {"interactions.csv": "user,item_id\nu,1\n"})
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(tmp_path / "items.csv")
    assert load(tmp_path)[1] == {"1": ("A b", "A b. red. 1999"), "2": ("C", "C. x")}


def test_without_a_title_column_the_first_words_are_the_title(tmp_path):
    write(
        tmp_path, {"interactions.csv": "user,item\nu,1\n", "items.csv": "item,price,kind,place\n1,5,red,left\n2,6,,\n"}
    )
    assert load(tmp_path)[1] == {"1": ("red", "red. left"), "2": ("2", "")}
    write(tmp_path, {"items.csv": "item,price\n1,5\n2,6\n"})
    assert load(tmp_path)[1] == {"1": ("1", ""), "2": ("2", "")}


def test_rows_of_the_items_file_without_an_id_or_seen_before_are_dropped_and_counted(tmp_path):
    write(tmp_path, {"interactions.csv": "user,item\nu,1\n", "items.csv": "item,title\n1,a\n,b\n1,c\n2,d\n"})
    _, items, summary = load(tmp_path)
    assert items == {"1": ("a", "a"), "2": ("d", "d")}
    assert summary["item rows without an id (dropped)"] == 1
    assert summary["item rows with an id seen before (dropped)"] == 1


PROBLEMS = {
    "no known names": ({"a.csv": "x", "notes.md": "y"}, {}, ["a.csv, notes.md", "Expected interactions.csv"]),
    "nothing": ({}, {}, ["found no files"]),
    "two tables": (
        {"interactions.csv": "user,item\n", "interactions.tsv": "user\titem\n"},
        {},
        ["several interactions files: interactions.csv, interactions.tsv"],
    ),
    "two item tables": (
        {"interactions.csv": "user,item\nu,i\n", "items.csv": "x", "items.tsv": "x"},
        {},
        ["several items files: items.csv, items.tsv", "data.items"],
    ),
    "header only": ({"interactions.csv": "user,item\n"}, {}, ["interactions.csv has a header but no rows"]),
    "items header only": (
        {"interactions.csv": "user,item\nu,i\n", "items.csv": "item,title\n"},
        {},
        ["items.csv has a header"],
    ),
    "no header": (
        {"interactions.csv": "196,242,3\n186,302,3\n"},
        {},
        ["no user_id column among: 196, 242, 3", "header"],
    ),
    "no item column": ({"interactions.csv": "user,thing\nu,i\n"}, {}, ["no item_id column among: user, thing"]),
    "typo in a column": (
        {"interactions.csv": "userId,movieId,stamp\n1,2,3\n"},
        {"columns": Columns(order="stmp")},
        [
            "interactions.csv",
            "no column 'stmp'",
            "data.columns.order",
            "did you mean 'stamp'",
            "userId, movieId, stamp",
        ],
    ),
    "typo in a text column": (
        {"interactions.csv": "user,item\nu,i\n", "items.csv": "item,title,brand\ni,a,b\n"},
        {"columns": Columns(text=["brnd"])},
        ["items.csv", "no column 'brnd'", "did you mean 'brand'", "item, title, brand"],
    ),
    "typo in the title": (
        {"interactions.csv": "user,item\nu,i\n", "items.csv": "item,label\ni,a\n"},
        {"columns": Columns(title="lable")},
        ["items.csv", "data.columns.title", "did you mean 'label'"],
    ),
    "title without items": (
        {"interactions.csv": "user,item\nu,i\n"},
        {"columns": Columns(title="name")},
        ["has none", "data.items"],
    ),
    "one column for two": (
        {"interactions.csv": "user,item\nu,i\n"},
        {"columns": Columns(item_id="user")},
        ["'user' can't be both user_id and item_id"],
    ),
    "missing items file": (
        {"interactions.csv": "user,item\nu,i\n"},
        {"items": "nowhere.csv"},
        ["no file 'nowhere.csv'", "data.items"],
    ),
    "one column in all": ({"interactions.csv": "user\nu\n"}, {}, ["no item_id column among: user"]),
    "short u.item": (
        {"u.data": "1\t2\t3\t4\n", "u.item": "2|Heat\n"},
        {},
        ["u.item: expected 24 fields a line"],
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_told_with_file_and_remedy(tmp_path, name):
    files, settings, expected = PROBLEMS[name]
    write(tmp_path, files)
    with pytest.raises(UserError) as caught:
        load(tmp_path, **settings)
    for part in expected:
        assert part in str(caught.value)


def test_a_missing_path_suggests_its_neighbour(tmp_path):
    (tmp_path / "ml-100k").mkdir()
    with pytest.raises(UserError, match=r"no file or folder '.*ml-10k' \(data.path\) \(did you mean '.*ml-100k'\?\)"):
        load(tmp_path / "ml-10k")


def test_files_are_those_that_are_read(tmp_path):
    write(tmp_path, {"users.dat": "1 0\n", "item-tag.dat": "1 0\n", "tags.dat": "a\n", "mult.dat": "x\n"})
    assert [p.name for p in locate(Data(path=str(tmp_path))).files] == ["users.dat", "item-tag.dat", "tags.dat"]
