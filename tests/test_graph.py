"""Who may read whom, and which edges can matter."""

import numpy as np
import pytest

from orderscale_jax.errors import UserError
from orderscale_jax.graph import Edge, Graph, position_names

SHAPES = [(1, 1), (1, 3), (2, 1), (2, 2), (2, 3), (3, 2), (3, 4), (5, 2)]  # (list_len, n_layers)


def test_the_published_mask():
    """The table of the paper's section 3, for two digits."""
    graph = Graph(list_len=2, n_layers=2)
    later = [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0]]
    np.testing.assert_array_equal(graph.readable(1), later)
    np.testing.assert_array_equal(graph.readable(0), [*later[:3], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
    assert graph.names == ("d1", "d2", "SEP", "o1", "o2")


@pytest.mark.parametrize(("n_layers", "n_edges", "n_live"), [(2, 13, 5), (3, 20, 12)])
def test_the_published_counts(n_layers, n_edges, n_live):
    graph = Graph(list_len=2, n_layers=n_layers)
    assert (len(graph.edges), len(graph.live_edges)) == (n_edges, n_live)


def test_the_live_edges_of_two_layers():
    graph = Graph(list_len=2, n_layers=2)
    labels = [graph.label(edge) for edge in graph.live_edges]
    assert labels == ["L0 SEP<-d1", "L0 SEP<-d2", "L1 o1<-SEP", "L1 o2<-SEP", "L1 o2<-o1"]


@pytest.mark.parametrize(("list_len", "n_layers"), SHAPES)
def test_rows_read_what_the_journey_allows(list_len, n_layers):
    graph, n = Graph(list_len, n_layers), list_len
    digits, sep, outputs = range(n), n, range(n + 1, 2 * n + 1)
    assert graph.outputs == outputs and graph.sep == sep and graph.n_positions == 2 * n + 1
    for layer in range(n_layers):
        for query, row in enumerate(graph.readable(layer)):
            keys = set(np.flatnonzero(row))
            if query in digits:
                assert keys == (set(range(query)) or {0})
            elif query == sep:
                assert keys == set(digits)
            else:
                assert keys == ({query} if layer == 0 else {sep, *range(n + 1, query)})


def reaches(graph: Graph):
    """[L+1, T, T]: can what position p carries into layer l be seen in the final residual of q?"""
    T = graph.n_positions
    reach = [np.eye(T, dtype=bool)]
    for layer in reversed(range(graph.n_layers)):
        moves = np.eye(T, dtype=bool)
        for query, key in np.argwhere(graph.readable(layer)):
            moves[query, key] |= layer > 0 or query <= graph.sep
        reach.append(reach[-1] @ moves)
    return np.stack(reach[::-1]).swapaxes(1, 2)


@pytest.mark.parametrize(("list_len", "n_layers"), SHAPES)
def test_an_edge_is_live_if_its_query_reaches_an_output(list_len, n_layers):
    graph = Graph(list_len, n_layers)
    reach = reaches(graph)
    for edge in graph.edges:
        seen = reach[edge.layer + 1, edge.query, list(graph.outputs)].any()
        assert graph.is_live(edge) == (seen and graph.carries(edge)), graph.label(edge)
    assert graph.live_edges == tuple(edge for edge in graph.edges if graph.is_live(edge))


@pytest.mark.parametrize(("list_len", "n_layers"), SHAPES)
def test_upstream_is_what_reaches_a_position(list_len, n_layers):
    graph = Graph(list_len, n_layers)
    reach = reaches(graph)
    for position in range(graph.n_positions):
        upstream = {
            edge
            for edge in graph.edges
            if graph.carries(edge) and reach[edge.layer + 1, edge.query, position]
        }
        assert graph.upstream(n_layers, position) == upstream
        assert graph.upstream(0, position) == frozenset()


def test_edges_come_in_order_and_have_labels():
    graph = Graph(list_len=3, n_layers=2)
    assert list(graph.edges) == sorted(graph.edges) and len(set(graph.edges)) == len(graph.edges)
    assert graph.label(Edge(1, 6, 3)) == "L1 o3<-SEP"
    assert position_names(1) == ("d1", "SEP", "o1")


def test_edges_are_checked():
    graph = Graph(list_len=2, n_layers=2)
    assert graph.check([(1, 4, 3), np.array([0, 2, 0])]) == (Edge(1, 4, 3), Edge(0, 2, 0))
    assert graph.check([]) == ()
    for triple in [(0, 4, 3), (2, 2, 0), (1, 2, 2), (-1, 2, 0), (1, 0, 1)]:
        with pytest.raises(ValueError, match=r"edge .* does not exist: with 2 layers and lists of 2"):
            graph.check([triple])
    for triple in [(0, 2), "abc", (0, 2, None)]:
        with pytest.raises(ValueError, match=r"an edge is three whole numbers|edge 'abc' does not exist"):
            graph.check([triple])


def test_a_name_is_an_edge_when_asked_whether_it_is_live():
    graph = Graph(list_len=2, n_layers=2)
    assert graph.is_live("L1 o2<-o1") and not graph.is_live("L1 SEP<-d1")
    assert graph.carries("L1 o2<-o1") and not graph.carries("L0 o2<-o2")
    assert graph.label((1, 4, 3)) == "L1 o2<-o1"
    for missing in ("L1 o2<-o3", (2, 4, 3)):
        with pytest.raises(UserError, match="does not exist"):
            graph.is_live(missing)
