"""What several metrics need: statistics, a model as it is deployed, the process that measures memory."""
