"""Open WebUI's own Chroma store, without the rest of the product: ``python -P open_webui.py FOLDER``.

FOLDER has the product's package. Its store, its settings of Chroma and what the store imports are the package's own
text; all else of it, which needs two hundred packages and a database, is not loaded. The settings come from the
environment, as its documents have them. Prints what a session of uploads, questions and deletions got, as JSON.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import chromadb

PACKAGE = "open_webui"


def names_of(statement: ast.stmt) -> set[str]:
    """Return the names that a statement of a module binds, also below an ``if``."""
    bound = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return bound | ({statement.name} if isinstance(statement, ast.FunctionDef) else set())


def load_part(folder: Path, module: str, names: str) -> None:
    """Make a module of those statements of the package's module that bind names of a pattern."""
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    wanted = [
        part for part in ast.parse(path.read_text()).body if any(re.fullmatch(names, each) for each in names_of(part))
    ]
    assert wanted, f"{module} binds nothing like {names}"
    made = ModuleType(module)
    vars(made).update(os=os, re=re, chromadb=chromadb, DATA_DIR=str(folder), VECTOR_DB="chroma", USE_SLIM=False)
    exec(compile(ast.Module(wanted, []), str(path), "exec"), vars(made))
    sys.modules[module] = made


def store_of(folder: Path) -> object:
    """Return the product's store, set as the environment says."""
    for package in ("", ".retrieval", ".retrieval.vector", ".retrieval.vector.dbs", ".utils"):
        made = ModuleType(PACKAGE + package)
        made.__path__ = [str(folder.joinpath(*(PACKAGE + package).split(".")))]
        sys.modules[PACKAGE + package] = made
    load_part(folder, f"{PACKAGE}.config", "CHROMA_.*")
    load_part(folder, f"{PACKAGE}.env", "USE_SLIM|RAG_METADATA_MAX_VALUE_CHARS")
    load_part(folder, f"{PACKAGE}.utils.misc", "SURROGATE_RE|sanitize_text_for_db")
    from open_webui.retrieval.vector.dbs.chroma import ChromaClient

    return ChromaClient()


def main() -> None:
    """Do with the store what the product does with it."""
    store = store_of(Path(sys.argv[1]))
    items = [
        {
            "id": f"chunk-{number}",
            "text": f"passage {number}",
            "vector": [float(number == place) for place in range(8)],
            "metadata": {"file_id": str(number % 2), "page": number, "tags": ["a", "b"], "none": None},
        }
        for number in range(8)
    ]
    told: dict[str, object] = {"before": store.has_collection("file-1")}
    store.insert("file-1", items)
    store.upsert("file-1", [{**items[0], "text": "changed"}])
    told["after"] = store.has_collection("file-1")
    found = store.search("file-1", [items[0]["vector"]], None, 2)
    told["search"] = [found.documents[0][0], round(found.distances[0][0], 3)]
    told["filtered"] = store.search("file-1", [items[0]["vector"]], {"file_id": "1"}, 100).ids[0]
    told["query"] = store.query("file-1", {"page": 3}, 1).ids
    told["nothing"] = store.search("file-9", [items[0]["vector"]])
    store.delete("file-1", ids=["chunk-1"])
    store.delete("file-1", filter={"file_id": "0"})
    told["left"] = sorted(store.get("file-1").ids[0])
    store.delete_collection("file-1")
    store.insert("file-2", items[:1])
    told["reset"] = [store.reset(), store.has_collection("file-2")]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
