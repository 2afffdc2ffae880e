"""The table of what can be wrong with data: how it is told, and which field decides about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["Error", "Policy", "Notice"]


@dataclass(frozen=True)
class Check:
    """One kind of finding: how it is told, and which field of `checks` decides about it."""

    id: str
    severity: Severity
    finding: str
    """finding may use {column}, {count}, {total}, {rows} and {detail}."""
    expected: str
    fix: str
    policy: str | None = None


CHECKS: dict[str, Check] = {
    "DigestMismatch": Check(
        "V-03", "Error", "{detail}", "the pinned content", "restore the file or change the pin"
    ),
    "UnsupportedFormat": Check(
        "V-04",
        "Error",
        "{detail}",
        "csv, tsv, json, jsonl, parquet, txt, each also as .gz",
        "convert the file, or set format",
    ),
    "NotUtf8": Check(
        "V-05",
        "Policy",
        "{count} of {total} rows are not UTF-8 (first: {rows}; {detail})",
        "UTF-8",
        "convert the file, or declare csv.encoding",
        "invalid_row",
    ),
    "ParseError": Check(
        "V-06",
        "Policy",
        "{count} of {total} rows cannot be read (first: {rows}; {detail})",
        "one complete row each",
        "correct the rows, or set checks.invalidRow: Drop",
        "invalid_row",
    ),
    "TooFewRows": Check(
        "V-08", "Error", "{detail}", "at least checks.minRows", "add data, or change the checks"
    ),
    "WrongCellType": Check(
        "V-09",
        "Policy",
        'column "{column}": {count} of {total} cells are not lists of turns (first: {rows})',
        "a list of {{role, content}} with text",
        "store JSON lists, not Python text",
        "invalid_row",
    ),
    "RowTooLarge": Check(
        "V-10",
        "Policy",
        "{count} rows are too large (first: {rows}; {detail})",
        "at most checks.maxRowSize",
        "split the documents, or set checks.rowTooLarge: Drop",
        "row_too_large",
    ),
    "MissingColumn": Check("V-11", "Error", "{detail}", "the mapped columns", "{detail_fix}"),
    "AmbiguousColumns": Check(
        "V-12", "Error", "{detail}", "one column per part", "map it explicitly in spec.columns"
    ),
    "DuplicateColumn": Check(
        "V-13", "Error", 'column "{column}" occurs twice', "unique names", "rename one"
    ),
    "EmptyColumnName": Check(
        "V-14", "Error", "column {detail} has no name", "a name for each column", "add a header"
    ),
    "SameColumnTwice": Check(
        "V-15",
        "Error",
        'column "{column}" is mapped as id and as parent',
        "two columns",
        "map the parent id column",
    ),
    "ParentNeedsId": Check(
        "V-26",
        "Error",
        "a parent column is mapped but no id column",
        "both",
        "map columns.id",
    ),
    "EmptyAnswer": Check(
        "V-16",
        "Policy",
        'column "{column}": {count} of {total} rows have no text (first: {rows})',
        "non-empty text",
        "fill them, or set checks.emptyAnswer: Drop",
        "empty_answer",
    ),
    "EmptyPrompt": Check(
        "V-17",
        "Policy",
        'column "{column}": {count} of {total} rows are blank (first: {rows})',
        "at least one part with text",
        "fill them, or set checks.emptyPrompt: Drop",
        "empty_prompt",
    ),
    "NotText": Check(
        "V-18",
        "Policy",
        'column "{column}": {count} of {total} values are not text (first: {rows}; {detail})',
        "text",
        "write them as text, or set checks.invalidRow: Drop",
        "invalid_row",
    ),
    "DamagedText": Check(
        "V-19",
        "Notice",
        "{count} rows hold replacement or control characters (first: {rows})",
        "readable text",
        "check the encoding of the export",
    ),
    "UnknownRole": Check(
        "V-21",
        "Policy",
        'column "{column}": role {detail} in {count} conversations (first: {rows})',
        "system, user, assistant, tool or an alias",
        "map it in spec.roles",
        "invalid_row",
    ),
    "NoAnswerTurn": Check(
        "V-22",
        "Policy",
        'column "{column}": {count} conversations have no assistant turn (first: {rows})',
        "at least one",
        "add answers, or set checks.noAnswerTurn: Drop",
        "no_answer_turn",
    ),
    "TurnOrder": Check(
        "V-23",
        "Policy",
        'column "{column}": {count} conversations have roles out of order (first: {rows}; '
        "{detail})",
        "optional system, then user and assistant in turn",
        "join turns, or set checks.turnOrder: Drop or Accept",
        "turn_order",
    ),
    "TrailingTurns": Check(
        "V-24",
        "Notice",
        "{count} conversations end without an answer; what follows the last answer is removed "
        "(first: {rows})",
        "an assistant turn at the end",
        "none needed",
    ),
    "DuplicateId": Check(
        "V-27",
        "Error",
        "{count} rows have an id that occurred before (first: {rows}; {detail})",
        "unique ids",
        "make ids unique",
    ),
    "SelfParent": Check(
        "V-28",
        "Error",
        "{count} rows are their own parent (first: {rows})",
        "another row or empty",
        "clear the parent",
    ),
    "ChainCycle": Check(
        "V-29",
        "Error",
        "ids {detail} form a cycle; {count} cycles (first: {rows})",
        "a tree",
        "break the cycle",
    ),
    "UnknownParent": Check(
        "V-30",
        "Policy",
        "{count} rows name a parent that does not exist (first: {rows}; {detail})",
        "an id of this source",
        "add the rows, or set checks.unknownParent: Drop or Accept, which makes them roots",
        "unknown_parent",
    ),
    "NoRoot": Check(
        "V-31",
        "Error",
        "no row has an empty parent",
        "at least one start row",
        "clear the parent of first turns",
    ),
    "NoChain": Check(
        "V-32",
        "Error",
        "no parent equals any id",
        "linked rows",
        'check that both columns use the same ids, or set columns.parentId: ""',
    ),
    "ChainTooDeep": Check(
        "V-33",
        "Error",
        "{count} rows lie more than 1,000 rows below their root (first: {rows})",
        "at most 1,000 rows",
        "split the conversation",
    ),
    "IdTypeMismatch": Check(
        "V-34",
        "Notice",
        "ids and parents are stored as different types ({detail}); they are compared as text",
        "one type",
        "store both alike",
    ),
    "NoParentColumn": Check(
        "V-67",
        "Notice",
        "no parent column in a source that is held out; each of its rows is a single turn",
        "a parent column as in training",
        "none needed",
    ),
    "UnknownSplit": Check(
        "V-52",
        "Policy",
        'column "{column}": {count} rows name no split (first: {rows}; {detail})',
        "train, validation or test",
        "correct them, or set checks.invalidRow: Drop",
        "invalid_row",
    ),
    "EmptySplit": Check(
        "V-53", "Error", "{detail}", "at least 1 record", "raise the share, or add data"
    ),
    "GroupAcrossSplits": Check(
        "V-54",
        "Notice",
        "{count} groups lie in two splits, as the data says (first: {rows})",
        "one split per group",
        "correct the split column or the sources",
    ),
    "Leakage": Check(
        "V-55",
        "Notice",
        "{count} held-out rows occur in training (first: {rows})",
        "none",
        "remove them from one of the sources",
    ),
    "Duplicates": Check(
        "V-56",
        "Policy",
        "{count} of {total} rows are exact copies (first: {rows})",
        "unique rows",
        "set checks.duplicates: Drop",
        "duplicates",
    ),
    "FewRecords": Check(
        "V-65", "Notice", "{detail}", "1,000 or more is a usual start", "none needed"
    ),
}
