"""From a question to a decision: which of many configurations, on how many replicas, and how sure."""
