"""What several metrics need: a model as it is deployed, the process that measures memory."""
