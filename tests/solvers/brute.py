"""The least recompute time by exhaustive search, for graphs of a handful of ops."""

from __future__ import annotations

import heapq


def least_recompute(graph, room):
    """Searches all schedules that run each backward op once, in order; None when nothing fits."""
    ops, num_forward = graph.ops, graph.num_forward
    required = [i for i in range(num_forward) if graph.is_required[i]]
    outputs = frozenset(graph.outputs)
    start = (frozenset(), num_forward, frozenset(), 0)
    best = {start: 0}
    heap = [(0, 0, start)]
    count = 0
    while heap:
        cost, _, state = heapq.heappop(heap)
        if cost > best[state]:
            continue
        live, place, done, region = state
        turned = done.issuperset(required)
        if place == len(ops) and turned:
            return cost
        current = ops[place].region if place < len(ops) else None
        followers = [(cost, (live - {s}, place, done, region)) for s in live - outputs]
        for index in (*range(num_forward), place):
            if index == len(ops):
                continue
            op = ops[index]
            if index >= num_forward and not turned:
                continue
            if not live.issuperset(op.reads) or not live.isdisjoint(op.writes):
                continue
            again = index in done
            if again and not op.recomputable:
                continue
            now = live | set(op.writes)
            if sum(graph.size(s) for s in now) + graph.working_bytes[index] > room:
                continue
            if index >= num_forward:
                followers.append((cost, (now, place + 1, done, region)))
                continue
            if turned and op.region != current:
                continue
            if not turned and op.region < region:
                continue
            paid = cost + (op.runtime_ns if again else 0)
            followers.append((paid, (now, place, done | {index}, max(region, op.region))))
        for paid, follower in followers:
            if paid < best.get(follower, float("inf")):
                best[follower] = paid
                count += 1
                heapq.heappush(heap, (paid, count, follower))
    return None


def least_recompute_in_any_order(graph, room):
    """The same over all schedules: backward ops in any order of their stretch, and again."""
    ops, num_forward = graph.ops, graph.num_forward
    required = [i for i in range(num_forward) if graph.is_required[i]]
    backward = range(num_forward, len(ops))
    start = (frozenset(), frozenset(), 0)
    best = {start: 0}
    heap = [(0, 0, start)]
    count = 0
    while heap:
        cost, _, state = heapq.heappop(heap)
        if cost > best[state]:
            continue
        live, done, region = state
        turned = done.issuperset(required)
        if turned and done.issuperset(backward) and live.issuperset(graph.outputs):
            return cost
        current = max((ops[i].region for i in backward if i not in done), default=None)
        stretch = min((graph.stretch[i] for i in backward if i not in done), default=None)
        followers = [(cost, (live - {s}, done, region)) for s in live]
        for index, op in enumerate(ops):
            if index >= num_forward and not turned:
                continue
            if index >= num_forward and index not in done and graph.stretch[index] != stretch:
                continue
            if index < num_forward and turned and op.region != current:
                continue
            if index < num_forward and not turned and op.region < region:
                continue
            if not live.issuperset(op.reads) or not live.isdisjoint(op.writes):
                continue
            if index in done and not op.recomputable:
                continue
            now = live | set(op.writes)
            if sum(graph.size(s) for s in now) + graph.working_bytes[index] > room:
                continue
            paid = cost + (op.runtime_ns if index in done else 0)
            reached = region if index >= num_forward else max(region, op.region)
            followers.append((paid, (now, done | {index}, reached)))
        for paid, follower in followers:
            if paid < best.get(follower, float("inf")):
                best[follower] = paid
                count += 1
                heapq.heappush(heap, (paid, count, follower))
    return None
