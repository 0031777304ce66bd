"""The bundled demo set: MovieLens ratings and films as Parquet. NOTICE beside this file holds their terms."""
