"""What a training would take on machines that are not at hand, computed from its compiled step and from what their makers publish."""
