"""YAML as texts, lists and tables, with aliases and merged tables."""

from __future__ import annotations

import yaml

MOST = 100_000  # values that aliases stand for; a text counts one more for every 100 characters


class TextLoader(yaml.BaseLoader):
    """The base loader keeps every scalar as text: a class named `no` or `007` is unchanged. libyaml's is ten times as
    fast, but reads other texts, and crashes the process on deep nesting.

    `<<` merges tables, as in YAML 1.1. Aliases are refused if they expand to more than `MOST` values, or without end.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[yaml.Node, int] = {}  # of the nodes that are complete, with their aliases expanded
        self._composed = self._expanded = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event, before = self.peek_event(), self._composed
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            size = self._sizes.get(node, MOST + 1)  # inside its own anchor, the node is not complete
            self._expanded += size
            if self._expanded > MOST:
                raise yaml.MarkedYAMLError(
                    problem=f"aliases expand to more than {MOST:,} values", problem_mark=event.start_mark
                )
            self._composed += size
        else:
            self._composed += 1 + len(getattr(event, "value", "")) // 100
            self._sizes[node] = self._composed - before
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        self.constructed_objects.clear()  # so that nesting through aliases counts as any other
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        table = super().construct_mapping(node, deep)
        merged = table.pop("<<", {})
        for other in merged if isinstance(merged, list) else [merged]:
            if not isinstance(other, dict):
                raise yaml.MarkedYAMLError(problem="<<: expected a table, or tables", problem_mark=node.start_mark)
            table = {**other, **table}
        return table
