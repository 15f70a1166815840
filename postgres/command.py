"""How a command that asks PostgreSQL runs: its settings, its log, and what goes wrong in words."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from config.logging import configure_logging
from config.settings import Settings, load_settings
from postgres.words import in_words

T = TypeVar("T")


def run_with_database(args: argparse.Namespace, work: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    """What `work` answers. Raises WattlineError, also for what psycopg raises."""
    settings = load_settings(beside_up=True, data_dir=args.data_dir)
    configure_logging(settings.log_level, settings.log_format)
    with in_words(settings.database_label):
        return asyncio.run(work(settings))
