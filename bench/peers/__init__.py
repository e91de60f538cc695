"""The line's work as others would arrange it. They act on a signal and keep nothing; mintline also writes the fill.

plain       nats-py as its documentation shows: awaited publishes, fetch, an ack a message; one process a stage
faststream  FastStream on JetStream as its documentation shows, with its msgspec serializer; one process a stage
queues      one process, asyncio queues between the stages and a task a user; nothing is durable
sockets     one WebSocket and one analysis a user; a process a core

What a frame means, its analysis and who is told are the project's own code in all of them, so that only the arrangement
differs. Where a documentation shows one publish after another, all those of a decision are awaited together: one by one
the peers would be several times slower.
"""
