"""What a prediction is worth: residuals of validation rows in, statements about new rows out."""
