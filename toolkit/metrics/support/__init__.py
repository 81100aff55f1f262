"""What several metrics need: a model as it is deployed, rounds of timings, the process that measures memory."""
