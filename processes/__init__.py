"""Programs that run beside us: started, tied to our life, kept running, stopped."""
