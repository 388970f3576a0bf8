"""A model behind OpenAI's HTTP interface (transformerlm[serve]).

In reading order: `errors` (answers to what cannot be done), `request` (JSON to a checked request), `job` (its
texts), `engine` (the thread in which the model runs), `answer` (results to JSON), `chat_request` and
`chat_answer` (both in chat form), `turns` (how much one round of the event loop may do), `response` (whole
answers and streams of events), `guard` (who may ask), `app` (the routes), `server` (the process).

Two threads: the model's, which steps the batch and never waits for a client, and that of the event loop,
which passes tokens on and never computes.
"""
