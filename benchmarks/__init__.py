"""Every speed and learning figure quoted anywhere is printed by a script here."""
