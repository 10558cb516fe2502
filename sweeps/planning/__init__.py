"""From a question to a decision: which of many settings, on how many replicas, and how sure."""
