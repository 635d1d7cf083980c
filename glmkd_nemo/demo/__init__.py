"""``make demo``: a teacher, a student from scratch and distilled students on real text."""
