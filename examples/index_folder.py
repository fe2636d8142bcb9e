"""Index a folder of text files and save the index, as a nightly job would.

    python examples/index_folder.py FOLDER INDEX

Needs `pip install 'aaflow-plugins[demo]'`. Plain LangChain loads what this saves: `FAISS.load_local(INDEX, ...)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from langchain_community.document_loaders import DirectoryLoader, TextLoader
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_text_splitters import RecursiveCharacterTextSplitter

from aaflow_plugins import Executor
from langchain_aaflow import ingest
from langchain_aaflow.wordllama import WordLlamaEmbeddings


def passage_id(chunk: Document) -> str:
    """Ids that stay the same from night to night, as long as the text does."""
    return f"{chunk.metadata['source']}:{chunk.metadata['start_index']}"


def main(
    folder: Annotated[Path, typer.Argument(help="Where the text files are.")],
    index: Annotated[Path, typer.Argument(help="Folder to save the index in.")],
) -> None:
    """Index a folder of text files and save the index."""
    executor = Executor()
    store = ingest(
        DirectoryLoader(str(folder), glob="**/*.txt", loader_cls=TextLoader, loader_kwargs={"encoding": "utf-8"}),
        splitter=RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200, add_start_index=True),
        embedding=WordLlamaEmbeddings(),
        vectorstore=FAISS,
        ids=passage_id,
        executor=executor,
        progress=True,
    )
    store.save_local(str(index))
    print(f"{store.index.ntotal:,} passages in {index}")
    print(executor.report)


if __name__ == "__main__":
    typer.run(main)
