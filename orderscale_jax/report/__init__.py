"""What was found about one model, in a form to hand on: results.json, figures, a page, claims."""
