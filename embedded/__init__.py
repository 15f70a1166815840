"""PostgreSQL, Mosquitto and wattline's own commands as child processes: `wattline up`."""
