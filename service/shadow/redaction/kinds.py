"""What redaction finds. Metrics name these kinds also where nothing is redacted."""

KINDS = ("SECRET", "EMAIL", "IBAN", "SSN", "CARD", "IP", "PHONE")
