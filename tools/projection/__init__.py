"""A study: the time that a training would take on machines that are not at hand, from its compiled step and their data sheets."""
