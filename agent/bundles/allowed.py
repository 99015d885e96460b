"""The globals that a pickle of a bundle may name: everything else is refused.

Unpickling can do no more than call what it names, on values built from what it names. Each entry
here builds a value and does nothing else: none opens a file or socket, starts a process, evaluates
text, imports by name, or fetches an attribute by name. A name is matched whole, module and name,
so a dotted name that would walk from a good module into a bad one matches nothing.

The tables are what PyTorch 2.x, NumPy 1 and 2, SciPy and scikit-learn 1.x write for tensors, state
dicts, checkpoints and fitted estimators; tests/bundles/samples/make_samples.py makes such files.
Left out on purpose: whole `torch.nn` modules (they need the code that made them: ship a state dict
or TorchScript), callables taken from user code, `functools.partial`, `operator`, `getattr`,
everything of `joblib`, and what scikit-learn or NumPy use to read files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_PYTHON = """
builtins: bool bytearray bytes complex dict float frozenset int list object range set slice str
  tuple
__builtin__: bool bytearray bytes complex dict float frozenset int list long object set slice str
  tuple unicode xrange
collections: Counter OrderedDict defaultdict deque
copy_reg: _reconstructor
copyreg: _reconstructor
_codecs: encode
datetime: date datetime time timedelta timezone
decimal: Decimal
fractions: Fraction
pathlib: PosixPath PurePath PurePosixPath
argparse: Namespace
"""

_NUMPY = """
numpy: dtype ndarray bool bool_ bytes_ complex64 complex128 datetime64 float16 float32 float64 int8
  int16 int32 int64 intc longdouble longlong object_ str_ timedelta64 uint8 uint16 uint32 uint64
  uintc ulonglong
  abs absolute cbrt ceil clip cos exp exp2 expm1 floor log log10 log1p log2 maximum minimum
  nan_to_num negative reciprocal rint sign sin sqrt square tan tanh
numpy.core.multiarray: _reconstruct scalar
numpy._core.multiarray: _reconstruct scalar
numpy.core.numeric: _frombuffer
numpy._core.numeric: _frombuffer
numpy.dtypes: BoolDType Float32DType Float64DType Int32DType Int64DType StrDType
numpy.ma: MaskedArray
numpy.ma.core: MaskedArray _mareconstruct
numpy.random._pickle: __bit_generator_ctor __generator_ctor __randomstate_ctor
numpy.random._mt19937: MT19937
numpy.random._pcg64: PCG64 PCG64DXSM
numpy.random._philox: Philox
numpy.random._sfc64: SFC64
numpy.random.bit_generator: SeedSequence __pyx_unpickle_SeedSequence
numpy.random._bit_generator: SeedSequence __pyx_unpickle_SeedSequence
"""

_SCIPY = """
scipy.sparse._csr: csr_array csr_matrix
scipy.sparse._csc: csc_array csc_matrix
scipy.sparse._coo: coo_array coo_matrix
scipy.sparse.csr: csr_matrix
scipy.sparse.csc: csc_matrix
scipy.interpolate._bsplines: BSpline
scipy.interpolate._interpolate: interp1d
scipy.interpolate.interpolate: interp1d
scipy._lib.array_api_compat.numpy._aliases: asarray
"""

_TORCH = """
torch: BFloat16Storage BoolStorage ByteStorage CharStorage ComplexDoubleStorage ComplexFloatStorage
  DoubleStorage FloatStorage HalfStorage IntStorage LongStorage QInt32Storage QInt8Storage
  QUInt2x4Storage QUInt4x2Storage QUInt8Storage ShortStorage
  Size Tensor device ScriptObject
  bfloat16 bool complex128 complex32 complex64 float16 float32 float64 int16 int32 int64 int8
  uint16 uint32 uint64 uint8 qint32 qint8 quint8 quint4x2 quint2x4 float4_e2m1fn_x2
  float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
  per_channel_affine per_channel_affine_float_qparams per_channel_symmetric per_tensor_affine
  per_tensor_symmetric
torch.storage: TypedStorage UntypedStorage _LegacyStorage
torch.nn.parameter: Buffer Parameter UninitializedBuffer UninitializedParameter
torch.serialization: _get_layout
torch._tensor: _rebuild_from_type_v2
torch._utils: _rebuild_device_tensor_from_cpu_tensor _rebuild_device_tensor_from_numpy
  _rebuild_meta_tensor_no_storage _rebuild_nested_tensor _rebuild_parameter
  _rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_csr_tensor
  _rebuild_sparse_tensor _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3
"""

_TORCHSCRIPT = """
torch.jit._pickle: build_boollist build_doublelist build_intlist build_tensor_from_id
  build_tensorlist restore_type_tag
torch._utils: _rebuild_sparse_tensor
"""

_SKLEARN = """
sklearn._loss._loss: CyAbsoluteError CyExponentialLoss CyHalfBinomialLoss CyHalfGammaLoss
  CyHalfMultinomialLoss CyHalfPoissonLoss CyHalfSquaredError CyHalfTweedieLoss
  CyHalfTweedieLossIdentity CyHuberLoss CyPinballLoss
sklearn._loss.link: HalfLogitLink IdentityLink Interval LogLink LogitLink MultinomialLogit
sklearn._loss.loss: AbsoluteError ExponentialLoss HalfBinomialLoss HalfGammaLoss
  HalfMultinomialLoss HalfPoissonLoss HalfSquaredError HalfTweedieLoss HalfTweedieLossIdentity
  HuberLoss PinballLoss
sklearn.calibration: CalibratedClassifierCV _CalibratedClassifier _SigmoidCalibration
  _TemperatureScaling
sklearn.cluster._affinity_propagation: AffinityPropagation
sklearn.cluster._agglomerative: AgglomerativeClustering FeatureAgglomeration
sklearn.cluster._bicluster: SpectralBiclustering SpectralCoclustering
sklearn.cluster._birch: Birch
sklearn.cluster._bisect_k_means: BisectingKMeans
sklearn.cluster._dbscan: DBSCAN
sklearn.cluster._hdbscan.hdbscan: HDBSCAN
sklearn.cluster._kmeans: KMeans MiniBatchKMeans
sklearn.cluster._mean_shift: MeanShift
sklearn.cluster._optics: OPTICS
sklearn.cluster._spectral: SpectralClustering
sklearn.compose._column_transformer: ColumnTransformer
sklearn.compose._target: TransformedTargetRegressor
sklearn.covariance._elliptic_envelope: EllipticEnvelope
sklearn.covariance._empirical_covariance: EmpiricalCovariance
sklearn.covariance._graph_lasso: GraphicalLasso GraphicalLassoCV
sklearn.covariance._robust_covariance: MinCovDet
sklearn.covariance._shrunk_covariance: LedoitWolf OAS ShrunkCovariance
sklearn.cross_decomposition._pls: CCA PLSCanonical PLSRegression PLSSVD
sklearn.decomposition._dict_learning: DictionaryLearning MiniBatchDictionaryLearning SparseCoder
sklearn.decomposition._factor_analysis: FactorAnalysis
sklearn.decomposition._fastica: FastICA
sklearn.decomposition._incremental_pca: IncrementalPCA
sklearn.decomposition._kernel_pca: KernelPCA
sklearn.decomposition._lda: LatentDirichletAllocation
sklearn.decomposition._nmf: MiniBatchNMF NMF
sklearn.decomposition._pca: PCA
sklearn.decomposition._sparse_pca: MiniBatchSparsePCA SparsePCA
sklearn.decomposition._truncated_svd: TruncatedSVD
sklearn.discriminant_analysis: LinearDiscriminantAnalysis QuadraticDiscriminantAnalysis
sklearn.dummy: DummyClassifier DummyRegressor
sklearn.ensemble._bagging: BaggingClassifier BaggingRegressor
sklearn.ensemble._forest: ExtraTreesClassifier ExtraTreesRegressor RandomForestClassifier
  RandomForestRegressor RandomTreesEmbedding
sklearn.ensemble._gb: GradientBoostingClassifier GradientBoostingRegressor
sklearn.ensemble._hist_gradient_boosting.binning: _BinMapper
sklearn.ensemble._hist_gradient_boosting.gradient_boosting: HistGradientBoostingClassifier
  HistGradientBoostingRegressor
sklearn.ensemble._hist_gradient_boosting.predictor: TreePredictor
sklearn.ensemble._iforest: IsolationForest
sklearn.ensemble._stacking: StackingClassifier StackingRegressor
sklearn.ensemble._voting: VotingClassifier VotingRegressor
sklearn.ensemble._weight_boosting: AdaBoostClassifier AdaBoostRegressor
sklearn.feature_extraction._dict_vectorizer: DictVectorizer
sklearn.feature_extraction._hash: FeatureHasher
sklearn.feature_extraction.image: PatchExtractor
sklearn.feature_extraction.text: CountVectorizer HashingVectorizer TfidfTransformer
  TfidfVectorizer
sklearn.feature_selection._from_model: SelectFromModel
sklearn.feature_selection._mutual_info: mutual_info_classif mutual_info_regression
sklearn.feature_selection._rfe: RFE RFECV
sklearn.feature_selection._sequential: SequentialFeatureSelector
sklearn.feature_selection._univariate_selection: GenericUnivariateSelect SelectFdr SelectFpr
  SelectFwe SelectKBest SelectPercentile chi2 f_classif f_oneway f_regression r_regression
sklearn.feature_selection._variance_threshold: VarianceThreshold
sklearn.frozen._frozen: FrozenEstimator
sklearn.gaussian_process._gpc: GaussianProcessClassifier
sklearn.gaussian_process._gpr: GaussianProcessRegressor
sklearn.gaussian_process.kernels: CompoundKernel ConstantKernel DotProduct ExpSineSquared
  Exponentiation Hyperparameter Matern PairwiseKernel Product RBF RationalQuadratic Sum
  WhiteKernel
sklearn.impute._base: MissingIndicator SimpleImputer
sklearn.impute._knn: KNNImputer
sklearn.isotonic: IsotonicRegression
sklearn.kernel_approximation: AdditiveChi2Sampler Nystroem PolynomialCountSketch RBFSampler
  SkewedChi2Sampler
sklearn.kernel_ridge: KernelRidge
sklearn.linear_model._base: LinearRegression
sklearn.linear_model._bayes: ARDRegression BayesianRidge
sklearn.linear_model._coordinate_descent: ElasticNet ElasticNetCV Lasso LassoCV
  MultiTaskElasticNet MultiTaskElasticNetCV MultiTaskLasso MultiTaskLassoCV
sklearn.linear_model._glm.glm: GammaRegressor PoissonRegressor TweedieRegressor
sklearn.linear_model._huber: HuberRegressor
sklearn.linear_model._least_angle: Lars LarsCV LassoLars LassoLarsCV LassoLarsIC
sklearn.linear_model._logistic: LogisticRegression LogisticRegressionCV
sklearn.linear_model._omp: OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV
sklearn.linear_model._passive_aggressive: PassiveAggressiveClassifier PassiveAggressiveRegressor
sklearn.linear_model._perceptron: Perceptron
sklearn.linear_model._quantile: QuantileRegressor
sklearn.linear_model._ransac: RANSACRegressor
sklearn.linear_model._ridge: Ridge RidgeCV RidgeClassifier RidgeClassifierCV
sklearn.linear_model._sgd_fast: EpsilonInsensitive Hinge Huber Log ModifiedHuber
  SquaredEpsilonInsensitive SquaredHinge SquaredLoss
sklearn.linear_model._stochastic_gradient: SGDClassifier SGDOneClassSVM SGDRegressor
sklearn.linear_model._theil_sen: TheilSenRegressor
sklearn.manifold._classical_mds: ClassicalMDS
sklearn.manifold._isomap: Isomap
sklearn.manifold._locally_linear: LocallyLinearEmbedding
sklearn.manifold._mds: MDS
sklearn.manifold._spectral_embedding: SpectralEmbedding
sklearn.manifold._t_sne: TSNE
sklearn.metrics._dist_metrics: BrayCurtisDistance32 BrayCurtisDistance64 CanberraDistance32
  CanberraDistance64 ChebyshevDistance32 ChebyshevDistance64 EuclideanDistance
  EuclideanDistance32 EuclideanDistance64 HammingDistance32 HammingDistance64
  HaversineDistance32 HaversineDistance64 JaccardDistance32 JaccardDistance64
  MahalanobisDistance32 MahalanobisDistance64 ManhattanDistance ManhattanDistance32
  ManhattanDistance64 MinkowskiDistance MinkowskiDistance32 MinkowskiDistance64
  SEuclideanDistance32 SEuclideanDistance64 newObj
sklearn.metrics._scorer: _PassthroughScorer
sklearn.mixture._bayesian_mixture: BayesianGaussianMixture
sklearn.mixture._gaussian_mixture: GaussianMixture
sklearn.model_selection._classification_threshold: FixedThresholdClassifier
  TunedThresholdClassifierCV
sklearn.model_selection._search: GridSearchCV RandomizedSearchCV
sklearn.model_selection._split: GroupKFold GroupShuffleSplit KFold LeaveOneOut PredefinedSplit
  RepeatedKFold RepeatedStratifiedKFold ShuffleSplit StratifiedGroupKFold StratifiedKFold
  StratifiedShuffleSplit TimeSeriesSplit
sklearn.multiclass: OneVsOneClassifier OneVsRestClassifier OutputCodeClassifier
sklearn.multioutput: ClassifierChain MultiOutputClassifier MultiOutputRegressor RegressorChain
sklearn.naive_bayes: BernoulliNB CategoricalNB ComplementNB GaussianNB MultinomialNB
sklearn.neighbors._ball_tree: BallTree BallTree32 BallTree64 newObj
sklearn.neighbors._classification: KNeighborsClassifier RadiusNeighborsClassifier
sklearn.neighbors._graph: KNeighborsTransformer RadiusNeighborsTransformer
sklearn.neighbors._kd_tree: KDTree KDTree32 KDTree64 newObj
sklearn.neighbors._kde: KernelDensity
sklearn.neighbors._lof: LocalOutlierFactor
sklearn.neighbors._nca: NeighborhoodComponentsAnalysis
sklearn.neighbors._nearest_centroid: NearestCentroid
sklearn.neighbors._regression: KNeighborsRegressor RadiusNeighborsRegressor
sklearn.neighbors._unsupervised: NearestNeighbors
sklearn.neural_network._multilayer_perceptron: MLPClassifier MLPRegressor
sklearn.neural_network._rbm: BernoulliRBM
sklearn.neural_network._stochastic_optimizers: AdamOptimizer SGDOptimizer
sklearn.pipeline: FeatureUnion Pipeline
sklearn.preprocessing._data: Binarizer KernelCenterer MaxAbsScaler MinMaxScaler Normalizer
  PowerTransformer QuantileTransformer RobustScaler StandardScaler
sklearn.preprocessing._discretization: KBinsDiscretizer
sklearn.preprocessing._encoders: OneHotEncoder OrdinalEncoder
sklearn.preprocessing._function_transformer: FunctionTransformer
sklearn.preprocessing._label: LabelBinarizer LabelEncoder MultiLabelBinarizer
sklearn.preprocessing._polynomial: PolynomialFeatures SplineTransformer
sklearn.preprocessing._target_encoder: TargetEncoder
sklearn.random_projection: GaussianRandomProjection SparseRandomProjection
sklearn.semi_supervised._label_propagation: LabelPropagation LabelSpreading
sklearn.semi_supervised._self_training: SelfTrainingClassifier
sklearn.svm._classes: LinearSVC LinearSVR NuSVC NuSVR OneClassSVM SVC SVR
sklearn.tree._classes: DecisionTreeClassifier DecisionTreeRegressor ExtraTreeClassifier
  ExtraTreeRegressor
sklearn.tree._tree: Tree
sklearn.utils: Bunch
sklearn.utils._bunch: Bunch
"""

_QUALIFIED = re.compile(r"__torch__(\.[A-Za-z_][A-Za-z0-9_]*)*")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _read(*tables: str) -> frozenset[tuple[str, str]]:
    """(module, name) pairs of tables of `module: name name …`."""
    pairs: set[tuple[str, str]] = set()
    module = ""
    for word in " ".join(tables).split():
        if word.endswith(":"):
            module = word[:-1]
        else:
            pairs.add((module, word))
    return frozenset(pairs)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one kind of file may name."""

    kind: str
    names: frozenset[tuple[str, str]] = field(repr=False)
    storages: bool
    """Whether tensors refer to records beside the pickle by persistent ids."""
    torchscript: bool = False
    """Whether classes that the archive's own TorchScript code defines (`__torch__.…`) are fine:
    TorchScript's loader looks them up in that code and nowhere else."""

    def __contains__(self, pair: tuple[str, str]) -> bool:
        if pair in self.names:
            return True
        return (
            self.torchscript
            and _QUALIFIED.fullmatch(pair[0]) is not None
            and _IDENTIFIER.fullmatch(pair[1]) is not None
        )


PLAIN = Allowed("pickle", _read(_PYTHON, _NUMPY, _SCIPY, _SKLEARN), storages=False)
STATE_DICT = Allowed("state_dict", _read(_PYTHON, _NUMPY, _TORCH), storages=True)
TORCHSCRIPT = Allowed(
    "torchscript", _read("collections: OrderedDict", _TORCH, _TORCHSCRIPT), True, torchscript=True
)


def remedy(module: str, name: str) -> str:
    """What to do about a refused global."""
    if module.startswith(("torch.nn", "torchvision", "stable_baselines3", "__main__")):
        return "save model.state_dict(), or TorchScript, instead of the whole object"
    if module.startswith("joblib"):
        return "joblib's format is not read; save with pickle.dump(object, file, protocol=4)"
    if module.startswith(("sklearn", "numpy", "scipy", "pandas")):
        return f"{name} is not among the classes that may be shipped; save plain arrays instead"
    return "the file names code that no model needs; do not load it, find out who made it"
