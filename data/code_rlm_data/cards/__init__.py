"""Data sets as folders that the hub understands: parquet in the schema, and a card whose numbers are counted from the rows.

    python -m code_rlm_data.cards --task bhive_zen4 --data-root DATA --out bhive_zen4
    python -c "import datasets; print(datasets.load_dataset('bhive_zen4'))"

The folders beside this file hold the cards of the tables that the readers know; their rows are no part of the package.
"""

from code_rlm_data.cards.export import check_card, export_rows
from code_rlm_data.cards.facts import FACTS, Facts

__all__ = ["FACTS", "Facts", "check_card", "export_rows"]
