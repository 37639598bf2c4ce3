"""What access decides, without any input or output: the policy of a permit, and the view that follows from it."""
