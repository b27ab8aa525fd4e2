"""From labelled cases to a model."""
