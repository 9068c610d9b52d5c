//! Arguments that clap parses one by one and that are then checked together. The results are only
//! available after the check.

/// Implements clap's traits for `$checked`, through `$given` and `TryFrom<$given>`.
macro_rules! checked {
    ($given:ty => $checked:ty) => {
        impl clap::FromArgMatches for $checked {
            fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
                let given = <$given as clap::FromArgMatches>::from_arg_matches(matches)?;
                Self::try_from(given).map_err(|why: String| {
                    clap::Error::raw(clap::error::ErrorKind::ValueValidation, why)
                })
            }

            fn update_from_arg_matches(
                &mut self,
                matches: &clap::ArgMatches,
            ) -> Result<(), clap::Error> {
                *self = <Self as clap::FromArgMatches>::from_arg_matches(matches)?;
                Ok(())
            }
        }

        impl clap::Args for $checked {
            fn augment_args(command: clap::Command) -> clap::Command {
                <$given as clap::Args>::augment_args(command)
            }

            fn augment_args_for_update(command: clap::Command) -> clap::Command {
                <$given as clap::Args>::augment_args_for_update(command)
            }
        }
    };
}

pub(super) use checked;
