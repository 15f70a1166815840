"""What is about pairs, a vehicle and the meter that feeds it: energies, health, the fleet, links."""
