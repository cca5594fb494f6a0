"""What a person looks at: statistics, differences, findings, pictures."""
