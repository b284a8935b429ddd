"""`python -m service`: serve the bundle that the environment names, as `reflux serve` does."""

from service.serve import main

if __name__ == "__main__":
    main()
