"""What shows the fleet as it changes: the stream of events and the page."""
