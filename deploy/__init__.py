"""What ties coordinator and sites together on one machine: simulation and demo."""
